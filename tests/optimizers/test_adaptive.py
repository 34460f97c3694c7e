"""RMSprop, Adagrad and Adadelta: what only they do."""

import numpy as np

from fastadam.optimizers.adaptive import Adagrad


def test_the_sum_of_adagrad_begins_where_it_should_in_every_format():
    for state_dtype in ("bfloat16", "uint8"):
        one, other = (
            Adagrad(np.zeros(5, np.float32), initial_accumulator_value=0.5, state_dtype=kind)
            for kind in (None, state_dtype)
        )
        for optimizer in (one, other):
            optimizer.step(np.full(5, 2.0, np.float32))
        np.testing.assert_allclose(other.params, one.params, rtol=1e-6)
