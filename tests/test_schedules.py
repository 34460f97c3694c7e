import cmath
import copy
import json
import math
import pickle
from itertools import chain, product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.optimizers.adam import Adam
from fastadam.schedules import (
    Constant,
    Cosine,
    CosineWarmRestarts,
    Exponential,
    Function,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Product,
    Scheduler,
    Sequential,
    Step,
    Warmup,
    get_schedule,
)

STEPS = 200
NAN, INF = math.nan, math.inf


def rates(schedule, steps=STEPS):
    return [schedule(t) for t in range(steps)]


def assert_close(ours, theirs):
    """Equal to 1e-12 of each rate; where that should be 0, to the rounding of the others."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def scheduled(schedule, steps=STEPS, metrics=None):
    """The rates that a scheduler sets, from the first on."""
    optimizer = SimpleNamespace(lr=None)
    scheduler = Scheduler(optimizer, schedule)
    given = [optimizer.lr]
    for t in range(steps - 1):
        scheduler.step(None if metrics is None else metrics[t])
        given.append(optimizer.lr)
    return given


# Naive: each rate from the one before it


def falling_at(steps, gamma, lr=0.3):
    """Multiplies by `gamma` once for each time that a step is in `steps`."""
    for t in range(STEPS):
        lr *= gamma ** steps.count(t)
        yield lr


def turning(lr, lowest, periods):
    """Half a turn of a unit vector for each of `periods`: its first coordinate says the rate."""
    for period in periods:
        vector, turn = 1 + 0j, cmath.exp(1j * math.pi / period)
        for _ in range(period):
            yield lowest + (lr - lowest) * (1 + vector.real) / 2
            vector *= turn


def climbing(lr, start, end, steps):
    factor = start
    for t in range(STEPS):
        yield lr * factor
        factor += (end - start) / steps if t < steps else 0


def one_cycle(knots, highest, values, cosine):
    """Straight lines between the knots; for cosines, each line is bent afterwards."""
    line = np.interp(np.arange(STEPS), knots, np.arange(len(knots)))
    k = np.minimum(line.astype(int), len(knots) - 2)
    part = line - k
    if cosine:
        part = np.sin(part * np.pi / 2) ** 2
    values = highest * np.array(values)
    return values[k] + (values[k + 1] - values[k]) * part


CYCLE_3 = [0, 59, 118, 199], [1 / 4, 1, 1 / 4, 1 / 40]
CYCLE_2 = [0, 59, 199], [1 / 25, 1, 1 / 25e4]
NAIVE = [
    (Constant(0.3), [0.3] * STEPS),
    (Function(lambda t: 1 / (1 + t)), [1 / n for n in range(1, STEPS + 1)]),
    (Step(0.3, 7), falling_at(list(range(7, STEPS, 7)), 0.1)),
    (Step(0.3, 1, gamma=0.9), falling_at(list(range(1, STEPS)), 0.9)),
    (MultiStep(0.3, [3, 50, 50, 120]), falling_at([3, 50, 50, 120], 0.1)),
    (MultiStep(0.3, (0, 3), gamma=2), falling_at([0, 3], 2.0)),
    (Exponential(0.3, 0.97), falling_at(list(range(1, STEPS)), 0.97)),
    (Exponential(0.3, 1.01), falling_at(list(range(1, STEPS)), 1.01)),
    (CosineWarmRestarts(0.3, 40), turning(0.3, 0.0, [40] * 5)),
    (CosineWarmRestarts(0.3, 13, 2, 0.05), turning(0.3, 0.05, [13, 26, 52, 104, 208])),
    (CosineWarmRestarts(0.3, 1, 3), turning(0.3, 0.0, [1, 3, 9, 27, 81, 243])),
    (Cosine(0.3, 250, 0.01), turning(0.3, 0.01, [250])),
    (Linear(0.3), climbing(0.3, 1 / 3, 1.0, 5)),
    (Linear(0.3, 1.0, 0.25, 77), climbing(0.3, 1.0, 0.25, 77)),
    (Linear(0.3, 0.0, 0.5, 1), climbing(0.3, 0.0, 0.5, 1)),
    (Polynomial(0.3), climbing(0.3, 1.0, 0.0, 5)),
    (Polynomial(0.3, 120, 2.5), [0.3 * max(120 - t, 0) ** 2.5 / 120**2.5 for t in range(STEPS)]),
    (OneCycle(0.3, STEPS), one_cycle(CYCLE_2[0], 0.3, CYCLE_2[1], True)),
    (OneCycle(0.3, STEPS, anneal_strategy="linear"), one_cycle(CYCLE_2[0], 0.3, CYCLE_2[1], False)),
    (OneCycle(0.3, STEPS, 0.3, "cos", 4, 10, True), one_cycle(CYCLE_3[0], 0.3, CYCLE_3[1], True)),
    (OneCycle(0.3, STEPS, 0.3, "linear", 4, 10, True), one_cycle(CYCLE_3[0], 0.3, CYCLE_3[1], False)),
    (Warmup(0.3, 9), climbing(0.3, 1 / 3, 1.0, 9)),
    (Warmup(Exponential(0.3, 0.9), 4, 0.0), [0, 0.075, 0.15, 0.225] + [0.3 * 0.9**t for t in range(STEPS - 4)]),
    (Warmup(Step(0.3, 7), 0), falling_at(list(range(7, STEPS, 7)), 0.1)),
    (Sequential([0.2, Exponential(0.3, 0.9)], [50]), [0.2] * 50 + [0.3 * 0.9**t for t in range(150)]),
    (Product([Step(0.3, 7), Constant(0.5)]), falling_at(list(range(7, STEPS, 7)), 0.1, 0.15)),
]


@pytest.mark.parametrize(("schedule", "naive"), NAIVE, ids=lambda value: repr(value) if callable(value) else "")
def test_every_schedule_equals_its_naive_recurrence(schedule, naive):
    naive = list(naive)[:STEPS]
    assert len(naive) == STEPS
    np.testing.assert_allclose(rates(schedule), naive, rtol=1e-11, atol=1e-15)
    assert scheduled(schedule) == rates(schedule)


def test_a_cosine_comes_back_after_its_lowest_rate():
    assert rates(Cosine(0.5, 10, 0.1), 41)[::10] == pytest.approx([0.5, 0.1, 0.5, 0.1, 0.5], rel=1e-15)
    assert Cosine(0.5, 10)(10) == 0.0


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("options", [{}, {"three_phase": True}, {"anneal_strategy": "linear"}])
def test_a_cycle_of_any_length_stays_in_its_bounds_and_then_at_its_last_rate(steps, pct_start, options):
    schedule = OneCycle(0.3, steps, pct_start, **options)
    assert all(0 < rate <= 0.3 for rate in rates(schedule))
    assert set(rates(schedule)[steps - 1 :]) == {schedule(steps - 1)}


# Plateau


def naive_plateau(schedule, metrics):
    """The rates by the rule's words: look at the whole history each time, and keep no counters."""
    sign = {"min": -1, "max": 1}[schedule.mode]
    lr, best, counted_from, yields = schedule.lr, -sign * INF, 0, [schedule.lr]
    for t, metric in enumerate(metrics):
        unit = 0 if math.isinf(best) else best if schedule.threshold_mode == "rel" else 1
        margin = schedule.threshold * unit
        if metric < best - margin if sign < 0 else metric > best + margin:
            best, counted_from = metric, max(counted_from, t + 1)
        if t + 1 - counted_from > schedule.patience:
            reduced = max(lr * schedule.factor, schedule.min_lr)
            lr = reduced if lr - reduced > schedule.eps else lr
            counted_from = t + 1 + schedule.cooldown
        yields.append(lr)
    return yields


PLATEAUS = [
    Plateau(0.3, *options)
    for options in product(["min", "max"], [0.5, 0.0], [0, 3], [0.0, 0.1], ["rel", "abs"], [0, 4], [0.0, 0.01, 1.0])
]


def metrics_of(seed, steps=STEPS):
    rng = np.random.default_rng(seed)
    metrics = (3 * 0.9 ** np.arange(steps) + rng.normal(0, 0.02, steps)) * rng.choice([-1, 1])
    metrics[rng.integers(steps, size=6)] = [NAN, INF, -INF, 0.0, 5.0, -5.0]
    return np.where(np.arange(steps) < 100, metrics, np.round(metrics, 1)).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_plateau_equals_the_naive_rule(seed):
    metrics = metrics_of(seed)
    for schedule in PLATEAUS:
        assert scheduled(schedule, STEPS + 1, metrics) == naive_plateau(schedule, metrics), schedule


def test_plateau_reduces_after_more_than_patience_bad_steps():
    assert scheduled(Plateau(1.0, factor=0.5, patience=2), 9, [3, 2, 2, 2, 2, 2, 2, 2]) == [1] * 5 + [0.5] * 3 + [0.25]


def test_a_metric_as_good_as_the_best_is_no_improvement():
    for mode, threshold_mode in product(["min", "max"], ["rel", "abs"]):
        schedule = Plateau(1.0, mode, 0.5, 0, 0.0, threshold_mode)
        assert scheduled(schedule, 3, [2.0, 2.0]) == [1.0, 1.0, 0.5]


def test_plateau_makes_no_reduction_as_small_as_eps():
    assert scheduled(Plateau(1e-9, patience=0), 5, [1.0] * 4) == [1e-9] * 5
    assert scheduled(Plateau(1.0, factor=0.5, patience=0, eps=0.4), 4, [1.0] * 3) == [1.0, 1.0, 0.5, 0.5]


# The same numbers as PyTorch


def of_torch(make, steps=STEPS, lr=0.3, metrics=None):
    torch = pytest.importorskip("torch")
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=0.5)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    given = [optimizer.param_groups[0]["lr"]]
    for t in range(steps - 1):
        optimizer.step()
        scheduler.step(*([] if metrics is None else [metrics[t]]))
        given.append(optimizer.param_groups[0]["lr"])
    return given


LIKE_TORCH = [
    (Step, "StepLR", {"step_size": [1, 7, 300], "gamma": [0.1, 0.9, 1.01]}),
    (MultiStep, "MultiStepLR", {"milestones": [[], [3], [0, 10, 10, 150]], "gamma": [0.1, 1.5]}),
    (Exponential, "ExponentialLR", {"gamma": [0.9, 1.0, 1.02]}),
    (Cosine, "CosineAnnealingLR", {"T_max": [1, 2, 7, 30, 400], "eta_min": [0.0, 0.01, 0.5]}),
    (CosineWarmRestarts, "CosineAnnealingWarmRestarts", {"T_0": [1, 7, 300], "T_mult": [1, 2, 5], "eta_min": [0, 0.5]}),
    (Linear, "LinearLR", {"start_factor": [1 / 3, 1.0], "end_factor": [0.0, 0.5, 1.0], "total_iters": [1, 5, 60, 400]}),
    (Polynomial, "PolynomialLR", {"total_iters": [1, 5, 60, 400], "power": [0.0, 0.5, 1.0, 3.0]}),
]  # fmt: skip


def combinations(options):
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


@pytest.mark.peers
@pytest.mark.parametrize(("ours", "name", "options"), LIKE_TORCH, ids=[name for _, name, _ in LIKE_TORCH])
def test_two_hundred_steps_equal_pytorch(ours, name, options):
    for choice in combinations(options):
        theirs = of_torch(lambda kinds, optimizer, choice=choice: getattr(kinds, name)(optimizer, **choice))
        assert_close(rates(ours(0.3, **choice)), theirs)


@pytest.mark.peers
@pytest.mark.parametrize(("ours", "name", "options"), LIKE_TORCH, ids=[name for _, name, _ in LIKE_TORCH])
def test_the_defaults_are_those_of_pytorch(ours, name, options):
    required = {key: options[key][-1] for key in ("step_size", "milestones", "T_max", "T_0") if key in options}
    required |= {"gamma": 0.9} if ours is Exponential else {}
    theirs = of_torch(lambda kinds, optimizer: getattr(kinds, name)(optimizer, **required))
    assert_close(rates(ours(0.3, **required)), theirs)


@pytest.mark.peers
@pytest.mark.parametrize("steps", [1, 2, 10, STEPS])
def test_one_cycle_equals_pytorch(steps):
    options = {
        "pct_start": [0.0, 0.05, 0.3, 0.7, 1.0], "anneal_strategy": ["cos", "linear"], "div_factor": [25.0, 0.5],
        "final_div_factor": [1e4, 3.0], "three_phase": [False, True],
    }  # fmt: skip
    for choice in [{}, *combinations(options)]:
        if choice and choice["pct_start"] * steps == 1:
            continue  # PyTorch divides by the length of the rise, 0
        theirs = of_torch(lambda kinds, o, choice=choice: kinds.OneCycleLR(o, 0.3, total_steps=steps, **choice), steps)
        assert_close(rates(OneCycle(0.3, steps, **choice), steps), theirs)


@pytest.mark.peers
def test_compositions_equal_pytorch():
    def warm_cosine(kinds, optimizer):
        parts = [kinds.LinearLR(optimizer, 0.1, total_iters=20), kinds.CosineAnnealingLR(optimizer, 150, 0.01)]
        return kinds.SequentialLR(optimizer, parts, [20])

    def three(kinds, optimizer):
        parts = [kinds.ConstantLR(optimizer, 0.5, 10), kinds.ExponentialLR(optimizer, 0.9), kinds.StepLR(optimizer, 9)]
        return kinds.SequentialLR(optimizer, parts, [30, 100])

    def chained(kinds, optimizer):
        return kinds.ChainedScheduler([kinds.ConstantLR(optimizer, 0.5, 10), kinds.ExponentialLR(optimizer, 0.9)])

    held = Sequential([0.15, 0.3], [10])
    assert_close(rates(Warmup(Cosine(0.3, 150, 0.01), 20, 0.1)), of_torch(warm_cosine))
    assert_close(rates(Sequential([held, Exponential(0.3, 0.9), Step(0.3, 9)], [30, 100])), of_torch(three))
    assert_close(rates(Product([held, Exponential(1.0, 0.9)])), of_torch(chained))
    theirs = of_torch(lambda kinds, optimizer: kinds.LambdaLR(optimizer, lambda t: 1 / (1 + t)))
    assert_close(rates(Product([0.3, lambda t: 1 / (1 + t)])), theirs)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(3))
def test_plateau_equals_pytorch(seed):
    metrics = metrics_of(seed)
    for schedule in [Plateau(0.3), *PLATEAUS]:
        options = {key: value for key, value in vars(schedule).items() if key != "lr"}
        theirs = of_torch(
            lambda kinds, o, options=options: kinds.ReduceLROnPlateau(o, **options), STEPS + 1, metrics=metrics
        )
        assert scheduled(schedule, STEPS + 1, metrics) == theirs, schedule


# Properties

a_rate = st.floats(0, 1e3)
a_part = st.floats(0, 1)
a_length = st.integers(1, 60)
SIMPLE = {
    Constant: (a_rate,),
    Step: (a_rate, a_length, a_part),
    MultiStep: (a_rate, st.lists(st.integers(0, 60)).map(sorted), a_part),
    Exponential: (a_rate, a_part),
    Cosine: (a_rate, a_length, a_rate),
    CosineWarmRestarts: (a_rate, a_length, st.integers(1, 3), a_rate),
    Linear: (a_rate, a_part, a_part, a_length),
    Polynomial: (a_rate, a_length, st.floats(0, 9)),
    OneCycle: (
        a_rate, a_length, a_part, st.sampled_from(["cos", "linear"]), st.floats(1, 1e9), st.floats(1, 1e9),
        st.booleans(),
    ),
}  # fmt: skip
simple = st.one_of([st.builds(kind, *arguments) for kind, arguments in SIMPLE.items()])


def compositions(schedules):
    return st.one_of(
        st.builds(Warmup, schedules, st.integers(0, 60), a_part),
        st.builds(lambda one, two, step: Sequential([one, two], [step]), schedules, schedules, st.integers(0, 60)),
        st.builds(lambda one, two: Product([one, two]), schedules, schedules),
    )


any_schedule = st.recursive(simple, compositions, max_leaves=4)


@given(simple, st.integers(0, 10**6))
def test_a_rate_is_within_the_bounds_that_the_parameters_set(schedule, t):
    highest = max(getattr(schedule, name, 0.0) for name in ("lr", "max_lr", "eta_min"))
    lowest = min(getattr(schedule, "lr", 0.0), getattr(schedule, "eta_min", 0.0))
    assert type(schedule(t)) is float
    assert lowest * (1 - 1e-15) <= schedule(t) <= highest * (1 + 1e-15)


@given(any_schedule)
def test_schedules_compare_hash_copy_and_print_by_value(schedule):
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), eval(repr(schedule))):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert rates(other, 20) == rates(schedule, 20)


@given(st.lists(any_schedule, min_size=1, max_size=4), st.lists(st.integers(0, 30), min_size=3, max_size=3))
def test_sequential_is_its_schedules_one_after_another(schedules, lengths):
    lengths = lengths[: len(schedules) - 1]
    pieces = [rates(schedule, length) for schedule, length in zip(schedules, [*lengths, 30], strict=True)]
    whole = Sequential(schedules, np.cumsum(lengths).tolist())
    assert rates(whole, sum(lengths) + 30) == [*chain.from_iterable(pieces)]


@given(any_schedule, any_schedule, st.integers(0, 60))
def test_warmup_ends_at_the_schedule_and_a_product_multiplies(one, two, steps):
    warm = Warmup(one, steps)
    assert rates(warm, steps + 20)[steps:] == rates(one, 20)
    assert all(rate <= one(0) for rate in rates(warm, steps))
    assert rates(Product([one, two]), 20) == [a * b for a, b in zip(rates(one, 20), rates(two, 20), strict=True)]


plateaus = st.sampled_from(PLATEAUS)


@given(any_schedule | plateaus, st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_a_restored_run_goes_on_as_an_uninterrupted_one(schedule, before, after, seed):
    metrics = metrics_of(seed, before + after + 1)
    expected = scheduled(schedule, before + after + 1, metrics)
    first, second = SimpleNamespace(lr=None), SimpleNamespace(lr=None)
    scheduler = Scheduler(first, schedule)
    for t in range(before):
        scheduler.step(metrics[t])
    state = json.loads(json.dumps(scheduler.state_dict()))
    restored = Scheduler(second, schedule)
    restored.load_state_dict(state)
    assert restored.state_dict() == scheduler.state_dict() == state
    given = [second.lr]
    for t in range(before, before + after):
        restored.step(metrics[t])
        given.append(second.lr)
    assert given == expected[before:]
    assert scheduler.t == before  # what one does is nothing to the other


# The scheduler and its optimizer


def test_a_scheduler_drives_adam_and_pickles_with_it():
    optimizer = Adam(np.ones(3))
    scheduler = Scheduler(optimizer, Exponential(0.5, 0.5))
    assert optimizer.lr == 0.5
    other = pickle.loads(pickle.dumps(scheduler))
    for each in (scheduler, other):
        each.optimizer.step(np.ones(3))
        each.step()
        assert (each.t, each.optimizer.lr) == (1, 0.25)
    np.testing.assert_array_equal(optimizer.params, other.optimizer.params)


def test_a_scheduler_overrules_what_else_sets_the_rate_at_its_next_step():
    optimizer = Adam(np.ones(3))
    scheduler = Scheduler(optimizer, 0.5)
    optimizer.lr = 0.1
    scheduler.step()
    assert optimizer.lr == 0.5


def test_a_scheduler_needs_something_with_a_rate():
    with pytest.raises(TypeError, match="optimizer must have an attribute lr, got 3"):
        Scheduler(3, 0.1)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (NAN, ValueError, r"in \[0, inf\), got nan"),
        (INF, ValueError, r"in \[0, inf\), got inf"),
        (-1e-9, ValueError, r"in \[0, inf\), got -1e-09"),
        (10**400, ValueError, r"in \[0, inf\), got 1000"),
        (None, TypeError, "a number, got None"),
        ("0.1", TypeError, "a number, got '0.1'"),
        (True, TypeError, "a number, got True"),
        (np.ones(1), TypeError, "a number, got array"),
        (1j, TypeError, "a number, got 1j"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: Product([0.1, f]), lambda f: Warmup(f, 0)])
def test_a_bad_rate_is_refused_and_nothing_is_changed(bad, error, says, wrap):
    optimizer = Adam(np.ones(3), lr=0.7)
    with pytest.raises(error, match="at step 0 must be " + says):
        Scheduler(optimizer, wrap(lambda t: bad))
    assert optimizer.lr == 0.7
    scheduler = Scheduler(optimizer, wrap(lambda t: bad if t == 2 else 0.5))
    scheduler.step()
    for call in (scheduler.step, lambda: scheduler.load_state_dict({"t": 2})):
        with pytest.raises(error, match="at step 2 must be " + says):
            call()
        assert (scheduler.t, optimizer.lr) == (1, scheduler.schedule(1))


def test_a_rate_that_the_optimizer_refuses_leaves_the_scheduler_where_it_was():
    class Picky:
        lr = property(lambda self: 0.0, lambda self, value: 1 / (value - 2))

    scheduler = Scheduler(Picky(), lambda t: t)
    scheduler.step()
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert scheduler.t == 1


def two_groups():
    params = {"body": np.zeros(2), "head": np.zeros(2)}
    return Adam(params, lr=0.25, groups={"head": {"params": ["head"]}})


def test_a_group_has_a_schedule_of_its_own():
    optimizer = two_groups()
    both = [Scheduler(optimizer, Exponential(0.5, 0.5)), Scheduler(optimizer, Constant(0.125), group="head")]
    for scheduler in both:
        scheduler.step()
    assert (optimizer.lr, optimizer.groups["head"]["lr"]) == (0.25, 0.125)
    optimizer.step({"body": np.ones(2), "head": np.ones(2)})
    np.testing.assert_allclose([optimizer.params["body"], optimizer.params["head"]], [[-0.25] * 2, [-0.125] * 2])
    assert repr(both[1]) == f"Scheduler({optimizer!r}, Constant(lr=0.125), group='head', t=1)"
    both[1].load_state_dict({"t": 7})
    assert both[1].t == 7


def test_a_group_must_be_one_of_the_optimizers():
    optimizer = two_groups()
    with pytest.raises(KeyError, match="'tail' is not a group of this optimizer"):
        Scheduler(optimizer, 0.5, group="tail")
    with pytest.raises(TypeError, match="optimizer must have groups, of which one is 'head', got namespace"):
        Scheduler(SimpleNamespace(lr=0.1), 0.5, group="head")
    assert optimizer.lr == 0.25
    assert "lr" not in optimizer.groups["head"]


def test_a_scheduler_prints_what_it_couples():
    scheduler = Scheduler(Adam(np.ones(3)), Exponential(0.5, 0.9))
    assert repr(scheduler) == f"Scheduler({scheduler.optimizer!r}, Exponential(lr=0.5, gamma=0.9), t=0)"


def test_a_rate_too_large_for_a_float_is_refused():
    with pytest.raises(
        ValueError, match=r"Exponential\(lr=1.0, gamma=10.0\) at step 400 must be in \[0, inf\), got inf"
    ):
        Exponential(1, 10)(400)


def test_a_rate_may_be_any_number():
    assert rates(Function(lambda t: np.float32(t)), 3) == [0.0, 1.0, 2.0]
    assert {type(rate) for rate in rates(Function(lambda t: np.int64(t)), 3)} == {float}


def test_a_plateau_needs_a_number_as_its_metric():
    optimizer = Adam(np.ones(3))
    scheduler = Scheduler(optimizer, Plateau(0.5, patience=0))
    before = scheduler.state_dict()
    for bad in (None, "1", [1.0], True):
        with pytest.raises(TypeError, match="metric must be a number, got"):
            scheduler.step(bad)
    assert scheduler.state_dict() == before


GOOD_STATE = {"t": 3, "lr": 0.25, "best": 1.0, "num_bad_epochs": 1, "cooldown_counter": 0}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"t": -1}, ValueError, "t must be at least 0, got -1"),
        ({"t": 1.0}, TypeError, "t must be an integer, got 1.0"),
        ({"t": True}, TypeError, "t must be an integer, got True"),
        ({"lr": -1.0}, ValueError, "lr must be in"),
        ({"lr": "1"}, TypeError, "lr must be a number"),
        ({"best": NAN}, ValueError, "best must be in"),
        ({"best": None}, TypeError, "best must be a number"),
        ({"num_bad_epochs": -1}, ValueError, "num_bad_epochs must be at least 0"),
        ({"cooldown_counter": 0.5}, TypeError, "cooldown_counter must be an integer"),
        ({"more": 1}, ValueError, "state must have the keys"),
        ({3: 1}, ValueError, "state must have the keys"),
    ],
)
def test_a_bad_state_is_refused_and_nothing_is_changed(change, error, says):
    optimizer = Adam(np.ones(3))
    scheduler = Scheduler(optimizer, Plateau(0.5, factor=0.5))
    scheduler.load_state_dict(GOOD_STATE)
    with pytest.raises(error, match=says):
        scheduler.load_state_dict(GOOD_STATE | {"lr": 0.1} | change)
    assert scheduler.state_dict() == GOOD_STATE
    assert optimizer.lr == 0.25


def test_a_state_has_exactly_its_keys_and_is_a_mapping():
    scheduler = Scheduler(Adam(np.ones(3)), 0.5)
    for bad in ({}, GOOD_STATE):
        with pytest.raises(ValueError, match=r"state must have the keys \['t'\], got"):
            scheduler.load_state_dict(bad)
    with pytest.raises(TypeError, match="state must be a mapping as state_dict returns it, got list"):
        scheduler.load_state_dict([3])


def test_a_state_is_a_copy():
    scheduler = Scheduler(Adam(np.ones(3)), Plateau(0.5))
    scheduler.state_dict().clear()
    given = dict(GOOD_STATE)
    scheduler.load_state_dict(given)
    assert given == GOOD_STATE
    given["t"] = 9
    assert scheduler.state_dict() == GOOD_STATE


# By name


def test_every_schedule_has_a_name():
    assert get_schedule("constant", lr=0.1) == get_schedule(0.1) == Constant(0.1)
    assert get_schedule("step", lr=1, step_size=2) == Step(1.0, 2)
    assert get_schedule("multi_step", lr=1, milestones=[2]) == MultiStep(1.0, [2])
    assert get_schedule("exponential", lr=1, gamma=0.5) == Exponential(1.0, 0.5)
    assert get_schedule("cosine", lr=1, T_max=3) == Cosine(1.0, 3)
    assert get_schedule("cosine_warm_restarts", lr=1, T_0=3) == CosineWarmRestarts(1.0, 3)
    assert get_schedule("linear", lr=1) == Linear(1.0)
    assert get_schedule("polynomial", lr=1) == Polynomial(1.0)
    assert get_schedule("one_cycle", max_lr=1, total_steps=9) == OneCycle(1.0, 9)
    assert get_schedule("product", schedules=[1, 2]) == Product([Constant(1.0), Constant(2.0)])
    assert get_schedule("plateau", lr=1) == Plateau(1.0)


def test_names_compose():
    spec = {
        "name": "sequential",
        "schedules": [{"name": "warmup", "schedule": {"name": "cosine", "lr": 0.1, "T_max": 9}, "steps": 3}, 0.01],
        "milestones": [12],
    }
    before = copy.deepcopy(spec)
    assert get_schedule(spec) == Sequential([Warmup(Cosine(0.1, 9), 3), 0.01], [12])
    assert spec == before


@pytest.mark.parametrize("schedule", [Cosine(0.1, 9), Plateau(0.1)])
def test_a_schedule_is_its_own_spec(schedule):
    assert get_schedule(schedule) is schedule


def test_any_function_is_a_schedule():
    assert rates(get_schedule(math.sqrt), 3) == [0.0, 1.0, math.sqrt(2)]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: get_schedule("cosin", lr=1), ValueError, r"the name of a schedule must be one of .*'cosin'"),
        (lambda: get_schedule({"name": 3}), TypeError, "the name of a schedule must be one of .* got 3"),
        (lambda: get_schedule("cosine", lr=1), TypeError, "'cosine' takes lr, T_max, eta_min: missing .* 'T_max'"),
        (lambda: get_schedule("cosine", lr=1, T_max=1, g=1), TypeError, "'cosine' takes .* unexpected .* 'g'"),
        (lambda: get_schedule(0.1, lr=1), TypeError, r"parameters must go with the name .* got \{'lr': 1\} and 0.1"),
        (lambda: get_schedule(None), TypeError, "spec, unless .* must be a function of t, got None"),
        (lambda: get_schedule(Cosine), TypeError, "spec, unless .* must be a function of t, got <class"),
        (lambda: get_schedule({"lr": 0.1}), TypeError, "spec, unless .* must be a function of t, got {'lr'"),
        (lambda: get_schedule(True), TypeError, "lr must be a number, got True"),
        (lambda: get_schedule(-1), ValueError, r"lr must be in \[0, inf\), got -1"),
        (lambda: Function(0.1), TypeError, "function must be a function of t, got 0.1"),
        (lambda: Constant(NAN), ValueError, r"lr must be in \[0, inf\), got nan"),
        (lambda: Constant("1"), TypeError, "lr must be a number, got '1'"),
        (lambda: Step(1, 0), ValueError, "step_size must be at least 1, got 0"),
        (lambda: Step(1, 1.5), TypeError, "step_size must be an integer, got 1.5"),
        (lambda: Step(1, 3, -0.1), ValueError, r"gamma must be in \[0, inf\), got -0.1"),
        (lambda: MultiStep(1, 3), TypeError, "milestones must be a list or tuple, got 3"),
        (lambda: MultiStep(1, "33"), TypeError, "milestones must be a list or tuple, got '33'"),
        (lambda: MultiStep(1, [3, 2]), ValueError, r"milestones must be in ascending order, got \[3, 2\]"),
        (lambda: MultiStep(1, [1, -2]), ValueError, r"milestones\[1\] must be at least 0, got -2"),
        (lambda: Exponential(1, INF), ValueError, r"gamma must be in \[0, inf\), got inf"),
        (lambda: Cosine(1, True), TypeError, "T_max must be an integer, got True"),
        (lambda: Cosine(1, 3, -1), ValueError, r"eta_min must be in \[0, inf\), got -1"),
        (lambda: CosineWarmRestarts(1, 0), ValueError, "T_0 must be at least 1, got 0"),
        (lambda: CosineWarmRestarts(1, 1, 0), ValueError, "T_mult must be at least 1, got 0"),
        (lambda: Linear(1, 1.5), ValueError, r"start_factor must be in \[0, 1\], got 1.5"),
        (lambda: Linear(1, 1, -0.5), ValueError, r"end_factor must be in \[0, 1\], got -0.5"),
        (lambda: Linear(1, total_iters=0), ValueError, "total_iters must be at least 1, got 0"),
        (lambda: Polynomial(1, 5, -1), ValueError, r"power must be in \[0, inf\), got -1"),
        (lambda: OneCycle(1, 0), ValueError, "total_steps must be at least 1, got 0"),
        (lambda: OneCycle(1, 9, 1.1), ValueError, r"pct_start must be in \[0, 1\], got 1.1"),
        (lambda: OneCycle(1, 9, 0.3, "sin"), ValueError, r"anneal_strategy must be one of \('cos', .* got 'sin'"),
        (lambda: OneCycle(1, 9, 0.3, None), TypeError, "anneal_strategy must be one of .* got None"),
        (lambda: OneCycle(1, 9, div_factor=0), ValueError, r"div_factor must be in \(0, inf\), got 0"),
        (lambda: OneCycle(1, 9, final_div_factor=-1), ValueError, r"final_div_factor must be in \(0, inf\), got -1"),
        (lambda: OneCycle(1, 9, three_phase=1), TypeError, "three_phase must be True or False, got 1"),
        (lambda: Warmup(Plateau(1), 3), TypeError, "schedule must be a function of t, which Plateau is not, got P"),
        (lambda: Warmup(1, -1), ValueError, "steps must be at least 0, got -1"),
        (lambda: Sequential([], []), ValueError, r"schedules must hold at least one schedule, got \[\]"),
        (lambda: Sequential([1, 2], []), ValueError, r"milestones must be one fewer than the 2 schedules, got \(\)"),
        (lambda: Sequential([1, 2], [3, 4]), ValueError, r"milestones must be one fewer than the 2 .* got \(3, 4\)"),
        (lambda: Sequential([1, Plateau(1)], [3]), TypeError, r"schedules\[1\] must be a function of t"),
        (lambda: Product({"name": "linear"}), TypeError, "schedules must be a list or tuple"),
        (lambda: Plateau(1, "least"), ValueError, r"mode must be one of \('min', 'max'\), got 'least'"),
        (lambda: Plateau(1, factor=1), ValueError, r"factor must be in \[0, 1\), got 1"),
        (lambda: Plateau(1, patience=-1), ValueError, "patience must be at least 0, got -1"),
        (lambda: Plateau(1, threshold=-1), ValueError, r"threshold must be in \[0, inf\), got -1"),
        (lambda: Plateau(1, threshold_mode="x"), ValueError, r"threshold_mode must be one of \('rel', .* got 'x'"),
        (lambda: Plateau(1, cooldown=None), TypeError, "cooldown must be an integer, got None"),
        (lambda: Plateau(1, min_lr=NAN), ValueError, r"min_lr must be in \[0, inf\), got nan"),
        (lambda: Constant(1)(-1), ValueError, "t must be at least 0, got -1"),
        (lambda: Constant(1)(0.5), TypeError, "t must be an integer, got 0.5"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_schedules_are_immutable_and_keep_plain_numbers():
    schedule = MultiStep(np.float32(0.5), [np.int64(3)], 1)
    assert (type(schedule.lr), schedule.milestones, type(schedule.milestones[0])) == (float, (3,), int)
    assert schedule(np.int64(3)) == 0.5
    with pytest.raises(AttributeError):
        schedule.lr = 1.0
