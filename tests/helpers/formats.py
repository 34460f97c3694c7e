"""The formulas of storage as functions of arrays, and numbers of very different sizes to store."""

import numpy as np

from fastadam.cpu.jit import JIT_DISABLED, formula, kernel
from fastadam.formulas import storage as formats

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.5, 1e-45, 1e-39, 3e38, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8], np.float32
)
N = 300 if JIT_DISABLED else 5_000  # more than a block


def compiled(function):
    """The function as one of a flat array, and of what else it takes."""
    function = formula(function)

    @kernel(cached=False)
    def of_array(x, out, *rest):
        for i in range(x.size):
            out[i] = function(x[i], *rest)

    def call(x, dtype, *rest):
        of_array(x, out := np.empty(x.shape, dtype), *rest)
        return out

    return call


from_bfloat16, to_bfloat16 = compiled(formats.from_bfloat16), compiled(formats.to_bfloat16)
dithered_bfloat16 = compiled(formats.dithered_bfloat16)
half_value, half_bits = compiled(formats.half_value), compiled(formats.half_bits)
positive_bfloat16, block_scale = compiled(formats.positive_bfloat16), compiled(formats.block_scale)
signed_code, positive_code = compiled(formats.signed_code), compiled(formats.positive_code)
signed_value, positive_value = compiled(formats.signed_value), compiled(formats.positive_value)


def values(seed, n=N):
    """Numbers of very different sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)).astype(np.float32)
