import copy
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import fastadam
from fastadam import schedules
from fastadam.buffers import FlatBuffer
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.formulas import rules
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]
compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="about the compilation")


def bounded(p, g, buffer, lr, momentum, bound):
    """Momentum whose step never exceeds a bound."""
    buffer = momentum * buffer + g
    step = min(max(lr * buffer, -bound), bound)
    return p - step, buffer


Bounded = fastadam.optimizer(bounded, state=["buffer"], lr=0.1, momentum=0.9, bound=0.5)
MyMomentum = fastadam.optimizer(
    rules.momentum, state=["momentum_buffer"], scalars=rules.momentum_scalars, lr=1e-3, mass=0.9, dampening=0.0
)
MyAdam = fastadam.optimizer(
    rules.adam,
    state=["m", "v"],
    positive=["v"],
    scalars=rules.adam_scalars,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
)
MyLion = fastadam.optimizer(
    rules.lion, state=["exp_avg"], scalars=rules.lion_scalars, lr=1e-4, beta1=0.9, beta2=0.99
)  # fmt: skip
MySGD = fastadam.optimizer(lambda p, g, lr: p - lr * g, lr=1e-3)

TWINS = {
    "momentum": (MyMomentum, SGD, {"momentum": 0.9}),
    "adam": (MyAdam, Adam, {}),
    "lion": (MyLion, Lion, {}),
    "lambda": (MySGD, SGD, {}),
}


def train(optimizer, steps=20):
    n, dtype = sum(array.size for array in parts(optimizer.params)), parts(optimizer.params)[0].dtype
    cycle = naive.gradients(n, dtype)
    with np.errstate(all="ignore"):  # a step warns only where Numba is switched off
        for t in range(steps):
            optimizer.step(like(optimizer.params, cycle[t % len(cycle)].copy()))
    return optimizer


def parts(params):
    return [params] if isinstance(params, np.ndarray) else list(params.values())


def like(params, values):
    """The values in the structure of the parameters."""
    if isinstance(params, np.ndarray):
        return values
    splits = np.cumsum([array.size for array in params.values()])[:-1]
    return {name: part.reshape(params[name].shape) for name, part in zip(params, np.split(values, splits), strict=True)}


def start(n=50, dtype=np.float32):
    return naive.start(n, dtype).copy()


def two_layers(dtype=np.float32):
    return {"W": start(40, dtype).reshape(10, 4), "b": start(7, dtype)}


def assert_same_training(own, built_in):
    for ours, expected in zip(parts(own.params), parts(built_in.params), strict=True):
        assert_same_bits(ours, expected)
    for ours, expected in zip(own.state.values(), built_in.state.values(), strict=True):
        assert_same_bits(ours, expected)
    assert own.t == built_in.t
    assert own.skipped_steps == built_in.skipped_steps


# The same as the package's own


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("twin", "dtype"),
    [("momentum", "f4"), ("adam", "f4"), ("adam", "f8"), ("lion", "f8"), ("lambda", "f4")],
)
def test_a_copied_rule_gives_the_bits_of_the_built_in_one(twin, dtype):
    own, built_in, settings = TWINS[twin]
    for n in (0, 1, 50):
        p = start(n, dtype)
        assert_same_training(train(own(p.copy(), lr=0.1)), train(built_in(p.copy(), lr=0.1, **settings)))


@compiled_only
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_large_array_gives_the_same_bits_on_any_number_of_threads(dtype, threads):
    p = start(PARALLEL_BYTES // np.dtype(dtype).itemsize + 5, dtype)
    assert_same_training(train(MyAdam(p.copy()), 3), train(Adam(p.copy()), 3))


OPTIONS = {
    "all": {"weight_decay": 0.1, "maximize": True, "ema_decay": 0.9, "max_norm": 0.5, "clip_value": 0.1},
    "two bytes": {"state_dtype": "bfloat16", "copy_dtype": "float16"},
    "one byte": {"state_dtype": "uint8"},
    "groups": {"groups": {"slow": {"params": ["W"], "lr": 1e-5}, "off": {"params": ["b"], "frozen": True}}},
    "decay of a group": {"groups": {"decayed": {"params": ["W"], "weight_decay": 0.5}}},
}


@pytest.mark.thin(2)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_works_as_in_the_built_in_ones(options):
    assert_same_training(train(MyAdam(two_layers(), **options)), train(Adam(two_layers(), **options)))


def test_gradients_are_scaled_zeroed_and_skipped_as_in_the_built_in_ones():
    options = {"zero_grad": True, "on_nonfinite": "skip"}
    own, built_in = MyAdam(start(), **options), Adam(start(), **options)
    for optimizer in (own, built_in):
        good, bad = np.ones(50, np.float32), np.full(50, np.nan, np.float32)
        optimizer.step(good, grad_scale=8.0)
        optimizer.step(bad)
        assert not good.any()
    assert_same_training(own, built_in)
    assert own.skipped_steps == 1


def test_a_flat_buffer_with_groups_is_taken():
    params, plain = FlatBuffer.from_arrays(two_layers()), two_layers()
    groups = {"biases": {"params": ["b"], "bound": 0.01}}
    grads = params.like()
    grads.flat[:] = 1.0
    Bounded(params, groups=groups).step(grads)
    Bounded(plain, groups=groups).step({name: np.ones_like(array) for name, array in plain.items()})
    for name, array in plain.items():
        assert_same_bits(params[name], array)


# What a rule may be


def test_the_example_of_the_documentation_keeps_its_bound():
    p = np.array([100.0, -1.0])
    optimizer = Bounded(p, bound=1.0)
    optimizer.step(2 * p)
    np.testing.assert_allclose(p, [99.0, -0.8], rtol=1e-15)
    for _ in range(300):
        optimizer.step(2 * p)
    assert np.abs(p).max() < 1e-3


def test_a_rule_may_have_no_hyper_parameters():
    p = np.array([1.0, -2.0])
    fastadam.optimizer(lambda p, g: p - 0.5 * g)(p).step(np.ones(2))
    assert p.tolist() == [0.5, -2.5]


def test_a_rule_may_have_four_states():
    def counting(p, g, a, b, c, d, lr):
        return p - lr * d, a + 1, b + a, c + b, d + c + g

    p = np.zeros(3)
    optimizer = fastadam.optimizer(counting, state=["a", "b", "c", "d"], lr=1.0)(p, ema_decay=0.5)
    for _ in range(5):
        optimizer.step(np.zeros(3))
    assert [optimizer.state[name][0] for name in "abcd"] == [5, 10, 10, 5]
    assert p.tolist() == [-1.0] * 3


def test_defaults_may_be_those_of_the_arguments():
    def sgd(p, g, lr=0.5, factor=2.0):
        return p - lr * factor * g

    by_rule = fastadam.optimizer(sgd, factor=1.0)(np.zeros(1))
    assert (by_rule.lr, by_rule.factor) == (0.5, 1.0)
    by_scalars = fastadam.optimizer(lambda p, g, rate: p - rate * g, scalars=lambda t, lr=0.25: (lr / t,))(np.zeros(1))
    by_scalars.step(np.ones(1))
    assert by_scalars.params[0] == -0.25


def test_a_rule_that_numba_compiled_is_taken():
    p, q = start(), start()
    train(fastadam.optimizer(numba.njit(bounded), state=["buffer"], lr=0.1, momentum=0.9, bound=0.5)(p))
    train(Bounded(q))
    assert_same_bits(p, q)


def test_a_rule_may_call_a_compiled_function_and_read_a_global():
    @numba.njit
    def half(value):
        return value / 2

    p = np.array([1.0])
    fastadam.optimizer(lambda p, g, lr: p - half(lr) * g, lr=1.0)(p).step(np.ones(1))
    assert p.tolist() == [0.5]


def test_scalars_are_computed_from_the_step_in_float64():
    MyDecaying = fastadam.optimizer(lambda p, g, rate: p - rate * g, scalars=lambda t, lr: (lr / t,), lr=1.0)
    p = np.zeros(1, np.float32)
    optimizer = MyDecaying(p)
    for _ in range(3):
        optimizer.step(np.ones(1, np.float32))
    expected = np.float32(0)
    for t in (1, 2, 3):
        expected -= np.float32(1 / t)
    assert p[0] == expected


def test_numbers_may_be_negative_and_set_between_steps():
    p = np.zeros(1)
    optimizer = MySGD(p, lr=-1.0)
    optimizer.step(np.ones(1))
    optimizer.lr = 0.25
    optimizer.step(np.ones(1))
    assert (p[0], optimizer.lr) == (0.75, 0.25)


def test_a_schedule_sets_its_rate():
    optimizer = MySGD(np.zeros(1))
    schedules.Scheduler(optimizer, schedules.Exponential(0.5, 0.5)).step()
    assert optimizer.lr == 0.25


def test_help_shows_the_rule_and_its_hyper_parameters():
    assert str(inspect.signature(Bounded)).startswith("(params: ")
    names = list(inspect.signature(Bounded).parameters)
    assert names == ["params", "lr", "momentum", "bound", "weight_decay", "maximize", "options"]
    assert inspect.signature(Bounded).parameters["bound"].default == 0.5
    assert (Bounded.__name__, Bounded.__module__, Bounded.__doc__) == ("Bounded", __name__, bounded.__doc__)
    assert repr(Bounded(np.zeros(2))).startswith("Bounded(2 float64 parameters, lr=0.1, momentum=0.9, bound=0.5")


# Saving and loading


def test_a_state_dict_goes_on_bit_for_bit():
    whole = train(Bounded(start()), 20)
    first = train(Bounded(start()), 10)
    second = Bounded(first.params.copy(), lr=9.0)
    second.load_state_dict(first.state_dict())
    cycle = naive.gradients(50, np.float32)
    for t in range(10, 20):
        second.step(cycle[t % len(cycle)])
    assert_same_training(second, whole)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_an_importable_class_is_pickled_with_its_optimizers(duplicate):
    optimizer = train(Bounded(two_layers(), bound=0.01, ema_decay=0.5, groups={"b": {"params": ["b"], "lr": 0.5}}))
    again = duplicate(optimizer)
    assert type(again) is Bounded
    assert_same_training(train(again, 5), train(optimizer, 5))


def test_a_class_that_cannot_be_imported_cannot_be_pickled():
    with pytest.raises((pickle.PicklingError, AttributeError), match="Custom"):
        pickle.dumps(MySGD(np.zeros(1)))


def test_without_compilation_the_bits_are_the_same():
    code = (
        "import sys, numpy as np, test_custom as here; from fastadam.cpu.jit import JIT_DISABLED; assert JIT_DISABLED\n"
        "for optimizer in (here.Bounded(here.start()), here.MyAdam(here.start(), weight_decay=0.1)):\n"
        "    sys.stdout.write(here.train(optimizer).params.tobytes().hex() + ' ')\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    here = Path(__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here)])
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    expected = [train(optimizer).params for optimizer in (Bounded(start()), MyAdam(start(), weight_decay=0.1))]
    assert done.stdout.split() == [array.tobytes().hex() for array in expected]


# Bad input


def adds_a_text(p, g, lr):
    q = p - lr * g
    return q + "text"


def calls_nothing_known(p, g, lr):
    return unknown_function(p, g)  # noqa: F821


def has_no_such_root(p, g, lr):
    return np.no_such_root(p)


def may_return_nothing(p, g, lr):
    if g > 0:
        return p
    return None


def returns_three(p, g, buffer, lr):
    return p, buffer, lr


def returns_one(p, g, buffer, lr):
    return p - lr * (g + buffer)


plain = lambda p, g, lr: p - lr * g  # noqa: E731
UNCOMPILABLE = {
    "types": (adds_a_text, 'return q + "text"'),
    "name": (calls_nothing_known, "return unknown_function(p, g)"),
    "attribute": (has_no_such_root, "return np.no_such_root(p)"),
}


@compiled_only
@pytest.mark.parametrize(("rule", "line"), UNCOMPILABLE.values(), ids=UNCOMPILABLE)
def test_a_rule_that_is_not_compilable_is_refused_with_its_own_line(rule, line):
    with pytest.raises(TypeError) as caught:
        fastadam.optimizer(rule, lr=0.1)
    message = str(caught.value)
    source = Path(__file__).read_text().splitlines()
    number = next(k for k, text in enumerate(source, start=1) if text.strip().partition("  #")[0] == line)
    assert message.startswith(f"rule cannot be compiled, line {number} of {__file__}: ")
    assert line in message.splitlines()[0]


@compiled_only
def test_a_rule_without_a_source_is_refused_with_its_line_number():
    namespace = {}
    exec(compile("def rule(p, g, lr):\n    return p + 'x'\n", "<typed>", "exec"), namespace)
    with pytest.raises(TypeError, match="rule cannot be compiled, line 2 of <typed>:\n"):
        fastadam.optimizer(namespace["rule"], lr=0.1)


@compiled_only
def test_scalars_that_are_not_compilable_are_refused_with_their_own_line():
    with pytest.raises(TypeError, match=r"scalars cannot be compiled.*len\(t\)"):
        fastadam.optimizer(plain, scalars=lambda t, lr: (len(t),), lr=0.1)


@compiled_only
@pytest.mark.parametrize(
    ("rule", "state", "match"),
    [
        (returns_three, ["buffer"], r"rule must return a tuple of .*\['buffer'\].*UniTuple\(float64 x 3\)"),
        (returns_one, ["buffer"], r"rule must return a tuple of .*\['buffer'\].*float64"),
        (lambda p, g, lr: (p, g), [], "rule must return the parameter, as real"),
        (may_return_nothing, [], "rule must return the parameter, as real numbers, returns Optional"),
        (lambda p, g, lr: p * 1j, [], "rule must return the parameter, as real numbers, returns complex"),
        (lambda p, g, b, lr: (p, None), ["b"], "rule must return a tuple"),
    ],
)  # fmt: skip
def test_a_rule_that_returns_something_else_is_refused(rule, state, match):
    with pytest.raises(TypeError, match=match):
        fastadam.optimizer(rule, state=state, lr=0.1)


@compiled_only
@pytest.mark.parametrize("scalars", [lambda t, lr: lr, lambda t, lr: (lr, lr), lambda t, lr: (lr * 1j,)])
def test_scalars_that_return_something_else_are_refused(scalars):
    with pytest.raises(TypeError, match="scalars must return a tuple of the 1 numbers that rule takes, returns "):
        fastadam.optimizer(plain, scalars=scalars, lr=0.1)


BAD_RULES = {
    "zero": (lambda: fastadam.optimizer(plain, scalars=0), TypeError, "scalars must be a plain function, got 0"),
    "its own default": (lambda: fastadam.optimizer(lambda p, g, lr="a": p), TypeError, "lr must be a number, got 'a'"),
    "a builtin": (lambda: fastadam.optimizer(abs), TypeError, "rule must be a plain function, got <built-in"),
    "a class": (lambda: fastadam.optimizer(Adam), TypeError, "rule must be a plain function"),
    "a ufunc": (lambda: fastadam.optimizer(np.add), TypeError, "rule must be a plain function"),
    "nothing": (lambda: fastadam.optimizer(None), TypeError, "rule must be a plain function, got None"),
    "scalars": (lambda: fastadam.optimizer(plain, scalars=0.1), TypeError, "scalars must be a plain function, got 0.1"),
    "star": (lambda: fastadam.optimizer(lambda p, g, *rest: p), TypeError, r"rule must have plain.*\(p, g, \*rest\)"),
    "stars": (lambda: fastadam.optimizer(lambda p, g, **rest: p), TypeError, "rule must have plain arguments only"),
    "keyword": (lambda: fastadam.optimizer(lambda p, g, *, lr: p), TypeError, "rule must have plain arguments only"),
    "p alone": (lambda: fastadam.optimizer(lambda p: p), TypeError, r"rule must take p, g first, got \(p\)"),
    "no state": (lambda: fastadam.optimizer(lambda p, g: p, state=["b"]), TypeError, "rule must take p, g, b first"),
    "no t": (lambda: fastadam.optimizer(plain, scalars=lambda: (1.0,)), TypeError, "scalars must take t first"),
    "default": (lambda: fastadam.optimizer(plain, rate=0.1), TypeError, r"'rate' is not a hyper-parameter.*\['lr'\]"),
    "five states": (lambda: fastadam.optimizer(plain, state=list("abcde")), ValueError, "state must have at most 4"),
    "twice": (lambda: fastadam.optimizer(plain, state=["b", "b"]), ValueError, "state must have at most 4 names, each"),
    "a text": (lambda: fastadam.optimizer(plain, state="buffer"), TypeError, "state must be a sequence of names"),
    "numbers": (lambda: fastadam.optimizer(plain, state=[1]), TypeError, "state must be a sequence of names"),
    "a number": (lambda: fastadam.optimizer(plain, state=1), TypeError, "state must be a sequence of names, got 1"),
    "positive": (
        lambda: fastadam.optimizer(lambda p, g, a: (p, a), state=["a"], positive=["b"]),
        ValueError, r"positive must have names in state, \['a'\], got \['b'\]",
    ),
    "positive text": (lambda: fastadam.optimizer(plain, positive="a"), TypeError, "positive must be a sequence of"),
    "ema": (lambda: fastadam.optimizer(lambda p, g, a: (p, a), state=["ema"]), ValueError, "'ema', which is reserved"),
    "t": (lambda: fastadam.optimizer(lambda p, g, t: p), ValueError, "'t', which is reserved"),
    "weight_decay": (lambda: fastadam.optimizer(lambda p, g, weight_decay: p), ValueError, "which is reserved"),
    "step": (lambda: fastadam.optimizer(lambda p, g, step: p), ValueError, "'step', which is reserved"),
    "skipped_steps": (lambda: fastadam.optimizer(lambda p, g, skipped_steps: p), ValueError, "which is reserved"),
    "stepper": (lambda: fastadam.optimizer(lambda p, g, stepper: p), ValueError, "which is reserved"),
    "private": (lambda: fastadam.optimizer(lambda p, g, _table: p), ValueError, "'_table', which begins with _"),
    "of a state": (
        lambda: fastadam.optimizer(lambda p, g, b, m: (p, b), state=["m"]), ValueError, "'m', which is a state"
    ),
    "NaN": (lambda: fastadam.optimizer(plain, lr=np.nan), ValueError, r"lr must be in \(-inf, inf\), got nan"),
    "a huge one": (lambda: fastadam.optimizer(plain, lr=10**400), ValueError, r"lr must be in \(-inf, inf\)"),
    "no number": (lambda: fastadam.optimizer(plain, lr="0.1"), TypeError, "lr must be a number, got '0.1'"),
    "a flag": (lambda: fastadam.optimizer(plain, lr=True), TypeError, "lr must be a number, got True"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), BAD_RULES.values(), ids=BAD_RULES)
def test_a_bad_rule_is_refused_by_name(call, error, match):
    with pytest.raises(error, match=match):
        call()


BAD_SETTINGS = {
    "missing": ({"momentum": 0.9}, TypeError, "needs the hyper-parameter 'lr', which has no default"),
    "unknown": ({"lr": 0.1, "rate": 0.1}, TypeError, "unexpected keyword argument 'rate'"),
    "NaN": ({"lr": np.nan}, ValueError, "lr must be in .*, got nan"),
    "infinite": ({"lr": 0.1, "momentum": np.inf}, ValueError, "momentum must be in .*, got inf"),
    "no number": ({"lr": None}, TypeError, "lr must be a number, got None"),
    "decay": ({"lr": 0.1, "weight_decay": -1}, ValueError, "weight_decay must be in"),
    "flag": ({"lr": 0.1, "maximize": 1}, TypeError, "maximize must be True or False"),
}


@pytest.mark.parametrize(("settings", "error", "match"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_refused_by_name(settings, error, match):
    NoRate = fastadam.optimizer(lambda p, g, lr, momentum: p - lr * momentum * g, momentum=0.5)
    with pytest.raises(error, match=match):
        NoRate(np.zeros(3), **settings)


def test_hyper_parameters_go_by_keyword():
    with pytest.raises(TypeError, match=r"Custom\.__init__\(\) takes 2 positional arguments but 3 were given"):
        MySGD(np.zeros(1), 0.1)


def test_a_number_that_cannot_be_set_changes_nothing():
    optimizer = MySGD(np.zeros(1), lr=0.5)
    with pytest.raises(ValueError, match="lr must be in"):
        optimizer.lr = np.nan
    assert optimizer.lr == 0.5
