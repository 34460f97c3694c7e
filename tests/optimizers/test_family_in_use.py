"""Any optimizer in any order of use: it stays equal to the naive reference, and what is refused changes nothing."""

import contextlib
import copy
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, stateful
from hypothesis import strategies as st

from fastadam.buffers import FlatBuffer
from fastadam.optimizers.adam import Adam
from tests.helpers.arrays import FLOATS, arrays_of, flattened, pickled, snapshot
from tests.helpers.effort import examples
from tests.helpers.family import DOMAINS, EXTREMES, arguments_of, assert_equals, broken, naive_of, numbers_for

CASES = [
    *EXTREMES,
    (Adam, {}),
    (Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True, "maximize": True}),
]
SPECIAL = [0.0, -0.0, 1e-20, 1e18, np.inf, -np.inf, np.nan]
FIXED = {
    "momentum",
    "dampening",
    "weight_decay",
}  # another value of one of these may need another kernel, or none at all
SHAPE = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def names(arrays):
    return [f"p{k}" for k in range(len(arrays))]


HOLDERS = {
    "array": lambda arrays: arrays[0],
    "list": list,
    "dict": lambda arrays: dict(zip(names(arrays), arrays, strict=True)),
    "buffer": lambda arrays: FlatBuffer.from_arrays(dict(zip(names(arrays), arrays, strict=True)), arrays[0].dtype),
}


def numbers_of(rule):
    """The arguments whose values may change while the kernel stays."""
    return [name for name, value in arguments_of(rule).items() if type(value) is not bool and name not in FIXED]


def outside(name):
    """Values that the argument must not have, with the error for each."""
    bad = [(math.nan, ValueError), (math.inf, ValueError), (10**400, ValueError), ("0.5", TypeError), (None, TypeError)]
    bad += [(-1e-9, ValueError)] * (DOMAINS[name][0] == 0) + [(1.5, ValueError)] * (DOMAINS[name][1] <= 1)
    return [((value, 0.5), error) for value, error in bad] if name == "betas" else bad


class InUse(stateful.RuleBasedStateMachine):
    """An optimizer beside its reference."""

    @stateful.initialize(
        case=st.sampled_from(CASES),
        dtype=st.sampled_from(FLOATS),
        kind=st.sampled_from(sorted(HOLDERS)),
        shapes=st.lists(SHAPE, min_size=1, max_size=4),
        seed=st.integers(0, 2**32 - 1),
        data=st.data(),
    )
    def make(self, case, dtype, kind, shapes, seed, data):
        self.rule, self.options = case
        self.dtype, self.kind, self.hold = np.dtype(dtype), kind, HOLDERS[kind]
        self.other_dtype = np.dtype(np.float32 if dtype is np.float64 else np.float64)
        self.shapes = shapes[:1] if kind == "array" else shapes
        self.rng = np.random.default_rng(seed)
        optional = {name: numbers_for(name) for name in numbers_of(self.rule)}
        numbers = data.draw(st.fixed_dictionaries({}, optional=optional))
        self.optimizer = self.rule(self.hold(self.arrays()), **self.options | numbers)
        self.reference = naive_of(self.rule)(flattened(self.optimizer.params), **self.options | numbers)

    def arrays(self, orders="CF"):
        """Arrays of the shapes, in any memory order, with some special values."""
        special = self.rng.choice(SPECIAL)
        values = [
            np.where(self.rng.random(shape) < 0.1, special, self.rng.standard_normal(shape)) for shape in self.shapes
        ]
        return [np.array(value, self.dtype, order=self.rng.choice(list(orders))) for value in values]

    def any_of(self, choices):
        return choices[self.rng.integers(len(choices))]

    @contextlib.contextmanager
    def nothing_changes(self):
        before = snapshot(self.optimizer)
        yield
        assert snapshot(self.optimizer) == before

    @stateful.invariant()
    def equals_the_reference(self):
        assert_equals(self.optimizer, self.reference)

    # What changes it

    @stateful.rule(times=st.integers(1, 3))
    def step(self, times):
        for _ in range(times):
            arrays = self.arrays()
            orders = ["C" if array.flags.c_contiguous else "F" for array in arrays_of(self.optimizer.params)]
            with np.errstate(all="ignore"):  # a step warns only where Numba is switched off
                self.optimizer.step(self.given(arrays))
            in_order = [array.ravel(order) for array, order in zip(arrays, orders, strict=True)]
            self.reference.step(np.concatenate(in_order))

    def given(self, arrays):
        """Gradients in one of the forms that a step takes them in."""
        if self.kind == "buffer":
            buffer = self.hold(arrays)
            return self.any_of([buffer, buffer.flat])
        if self.rng.random() < 0.3:  # every other element of other arrays
            arrays = [np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array for array in arrays]
        given = self.hold(arrays)
        return dict(reversed(given.items())) if self.kind == "dict" and self.rng.random() < 0.5 else given

    @stateful.rule(data=st.data())
    def set_a_number(self, data):
        name = self.any_of(numbers_of(self.rule))
        value = data.draw(numbers_for(name))
        setattr(self.optimizer, name, value)
        setattr(self.reference, name, value)

    @stateful.rule(duplicate=st.sampled_from([pickled, copy.deepcopy]))
    def duplicate(self, duplicate):
        _, self.optimizer = duplicate((self.optimizer.params, self.optimizer))

    @stateful.rule()
    def load_into_another(self):
        state = self.optimizer.state_dict()
        self.optimizer = self.rule(self.optimizer.params, **self.options)
        self.optimizer.load_state_dict(state)

    # What is refused

    @stateful.rule()
    def bad_gradients(self):
        with self.nothing_changes():
            for grads, error in self.spoiled_gradients():
                with pytest.raises(error, match="grads"):
                    self.optimizer.step(grads)

    def spoiled_gradients(self):
        arrays = self.arrays()
        yield from [(None, TypeError), (1.0, TypeError), ("grads", TypeError), ({"p0": None}, TypeError)]
        if flattened(self.optimizer.params).size:
            yield self.optimizer.params, ValueError
        if self.kind == "buffer":
            yield HOLDERS["dict"](arrays), TypeError
            yield FlatBuffer({"q": self.shapes[0]}, self.dtype), ValueError
            yield self.optimizer.params.like(self.other_dtype), TypeError
            yield np.zeros(self.optimizer.params.flat.size + 1, self.dtype), ValueError
            return
        k = self.rng.integers(len(arrays))
        for dtype in (self.other_dtype, np.float16, np.int64, object, self.dtype.newbyteorder()):
            yield self.hold([*arrays[:k], np.zeros(self.shapes[k], dtype), *arrays[k + 1 :]]), TypeError
        yield self.hold([*arrays[:k], arrays[k][None], *arrays[k + 1 :]]), ValueError
        yield (arrays if self.kind != "list" else arrays[0]), TypeError
        if self.kind != "array":
            yield self.hold(arrays[1:]), ValueError
            yield self.hold([*arrays, arrays[0]]), ValueError

    @stateful.rule()
    def read_only_parameters(self):
        array = self.optimizer.params.flat if self.kind == "buffer" else self.any_of(arrays_of(self.optimizer.params))
        with self.nothing_changes():
            array.flags.writeable = False
            with pytest.raises(ValueError, match="params"):
                self.optimizer.step(self.hold(self.arrays()))
            array.flags.writeable = True

    @stateful.rule()
    def bad_numbers(self):
        with self.nothing_changes():
            for name in numbers_of(self.rule):
                for value, error in outside(name):
                    with pytest.raises(error, match=name):
                        setattr(self.optimizer, name, value)
                    with pytest.raises(error, match=name):
                        self.rule(self.optimizer.params, **{name: value})

    @stateful.rule()
    def bad_states(self):
        state = self.optimizer.state_dict()
        state["lr"] = state["lr"] / 2 + 1
        name = self.any_of(list(state))
        bad = [(state | {name: value}, error, name) for value, error in broken(name, state[name])]
        bad += [({key: value for key, value in state.items() if key != name}, ValueError, name)]
        bad += [(state | {"unknown": 1}, ValueError, "unknown")]
        with self.nothing_changes():
            for spoiled, error, match in bad:
                with pytest.raises(error, match=match):
                    self.optimizer.load_state_dict(spoiled)

    @stateful.rule()
    def bad_parameters(self):
        array = self.any_of(arrays_of(self.optimizer.params))
        bad = [([array, np.zeros(1, self.other_dtype)], TypeError), ({"p": np.zeros(1, np.longdouble)}, TypeError)]
        if array.size:
            bad += [([array, array], ValueError), (np.broadcast_to(array, (2, *array.shape)), ValueError)]
        with self.nothing_changes():
            for params, error in bad:
                with pytest.raises(error, match="params"):
                    self.rule(params, **self.options)


InUse.TestCase.settings = examples(1000, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck))
TestInUse = InUse.TestCase
