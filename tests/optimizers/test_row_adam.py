"""Lazy Adam over the rows of a table."""

import copy
import math
import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.row_adam import RowAdam
from fastadam.schedules import Exponential, Scheduler
from tests.helpers import naive
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]
FLAGS = [{"maximize": maximize, "catch_up": catch_up} for maximize, catch_up in product([False, True], [False, True])]
each_flag = pytest.mark.parametrize("flags", FLAGS, ids=lambda f: "-".join(k for k in f if f[k]) or "plain")
each_dtype = pytest.mark.parametrize("dtype", FLOATS)


def table_of(n, dim, dtype=np.float64):
    return naive.start(n * dim, dtype).reshape(n, dim)


def batches(n, dim, dtype=np.float64, steps=10, most=12, seed=0):
    """Row indices, most of them of few rows, and gradients for them: one step names none, another all."""
    rng = np.random.default_rng(seed)
    ranges = [np.minimum(rng.zipf(1.3, rng.integers(1, most + 1)) - 1, n - 1) for _ in range(steps)]
    ranges[steps // 2], ranges[steps // 3] = ranges[0][:0], rng.permutation(n)
    return [(rows, rng.standard_normal((rows.size, dim)).astype(dtype)) for rows in ranges]


def train(optimizer, steps):
    for rows, grads in steps:
        optimizer.step(rows, grads)
    return optimizer


def assert_equals(optimizer, reference):
    assert optimizer.t == reference.t
    assert_same_bits(optimizer.params, reference.p)
    assert_same_bits(optimizer.state["m"], reference.m)
    assert_same_bits(optimizer.state["v"], reference.v)
    if reference.catch_up:
        assert_same_bits(optimizer.state["last_step"], reference.last_step)


def snapshot(optimizer):
    """Bytes that a failed call must leave as they were."""
    return optimizer.params.tobytes(), pickle.dumps(optimizer.state_dict())


# The same bits as the naive reference


@pytest.mark.thin(12)
@each_flag
@each_dtype
@pytest.mark.parametrize("dim", [1, 3, 16, 67])
def test_steps_give_the_bits_of_the_reference(dim, dtype, flags):
    table, steps = table_of(9, dim, dtype), batches(9, dim, dtype)
    assert any(len(set(rows)) < len(rows) for rows, _ in steps)
    hyper = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5} | flags
    assert_equals(train(RowAdam(table.copy(), **hyper), steps), train(naive.RowAdam(table, **hyper), steps))


@pytest.mark.thin(5)
@pytest.mark.skipif(JIT_DISABLED, reason="slow where nothing is compiled")
@each_flag
@each_dtype
def test_large_steps_give_the_bits_of_the_reference_on_any_threads(dtype, flags, threads):
    n, dim = 700, 48
    table, steps = table_of(n, dim, dtype), batches(n, dim, dtype, steps=6, most=4000)
    assert sum(grads.nbytes >= PARALLEL_BYTES for _, grads in steps) > 2
    assert_equals(train(RowAdam(table.copy(), **flags), steps), train(naive.RowAdam(table, **flags), steps))


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_fewer_rows_than_threads_ahead_and_many_duplicates_are_summed_in_order(distinct, threads):
    table, rng = table_of(6, 16, np.float32), np.random.default_rng(0)
    rows = rng.integers(0, distinct, PARALLEL_BYTES // 64)
    grads = (rng.standard_normal((rows.size, 16)) * 10.0 ** rng.integers(-5, 5, (rows.size, 1))).astype(np.float32)
    steps = [(rows, grads)] * 2
    assert_equals(train(RowAdam(table.copy()), steps), train(naive.RowAdam(table), steps))


def test_large_steps_run_on_threads_and_small_ones_do_not(threads, monkeypatch):
    optimizer, chosen = RowAdam(np.zeros((10, 8))), []
    monkeypatch.setattr(optimizer.stepper, "_serial_rows", lambda *arguments: chosen.append("serial") or 1)
    monkeypatch.setattr(optimizer.stepper, "_parallel_rows", lambda *arguments: chosen.append("parallel") or 1)
    for k in (PARALLEL_BYTES // 64 - 1, PARALLEL_BYTES // 64):
        optimizer.step(np.zeros(k, int), np.zeros((k, 8)))
    assert chosen == ["serial", "parallel" if threads > 1 and not JIT_DISABLED else "serial"]


@each_dtype
def test_a_table_at_any_address_is_updated_and_nothing_around_it(dtype):
    table, steps = table_of(7, 5, dtype), batches(7, 5, dtype)
    reference = train(naive.RowAdam(table), steps)
    itemsize = table.itemsize
    for shift in (itemsize, 1):  # one element, and one byte
        memory = bytearray(b"\xa5") * (table.nbytes + 3 * itemsize)
        inside = np.frombuffer(memory, dtype, table.size, offset=shift).reshape(table.shape)
        inside[:] = table
        assert_equals(train(RowAdam(inside), steps), reference)
        assert memory[:shift] + memory[shift + table.nbytes :] == b"\xa5" * (3 * itemsize)


def test_rows_that_are_not_named_stay_as_they_are_to_the_bit():
    table = table_of(20, 4)
    table[5], table[6] = np.nan, -0.0
    optimizer, before = RowAdam(table, catch_up=True), table.copy()
    optimizer.step(np.arange(20), np.ones((20, 4)))
    after, moments = table.copy(), optimizer.state_dict()
    for _ in range(5):
        optimizer.step([3, 17, 3], np.ones((3, 4)))
    others = np.delete(np.arange(20), [3, 17])
    assert_same_bits(table[others], after[others])
    for name in ("m", "v", "last_step"):
        assert_same_bits(optimizer.state[name][others], moments[name][others])
    assert (table[[3, 17]] < after[[3, 17]]).all()
    assert (after[[3, 17]] < before[[3, 17]]).all()


def test_a_gradient_of_nan_spoils_its_own_row_alone():
    table = table_of(6, 3)
    RowAdam(table).step([1, 4, 2, 4], [[1.0] * 3, [np.nan] * 3, [2.0] * 3, [1.0] * 3] * np.ones((4, 1)))
    assert np.flatnonzero(np.isnan(table).any(axis=1)).tolist() == [4]


def test_a_step_without_rows_counts_and_changes_nothing_else():
    table = table_of(4, 3)
    optimizer, reference = RowAdam(table.copy()), naive.RowAdam(table)
    for rows in ([], np.empty(0, int), (), [2]):
        for each in (optimizer, reference):
            each.step(rows, np.ones((len(rows), 3)))
        assert optimizer.t == reference.t
    assert_equals(optimizer, reference)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_tables_are_taken(shape):
    optimizer = RowAdam(np.ones(shape), catch_up=True)
    rows = range(shape[0])
    for _ in range(2):
        optimizer.step(list(rows), np.ones(shape))
    optimizer.flush()
    assert optimizer.t == 2


# The same numbers as PyTorch


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of sparse tensors
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("hyper", [{}, {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-2}, {"betas": (0.0, 0.99)}], ids=str)
def test_a_hundred_steps_equal_pytorch(hyper, maximize):
    torch = pytest.importorskip("torch")
    start = table_of(30, 7) * 50
    theirs = torch.tensor(start, requires_grad=True)
    peer = torch.optim.SparseAdam([theirs], **hyper, maximize=maximize)
    table = start.copy()
    ours = RowAdam(table, **hyper, maximize=maximize)
    for rows, grads in batches(30, 7, steps=100, most=40):
        theirs.grad = torch.sparse_coo_tensor(torch.tensor(rows[np.newaxis]), torch.tensor(grads), start.shape)
        peer.step()
        ours.step(rows, grads)
    state = peer.state[theirs]
    assert state["step"] == ours.t == 100
    np.testing.assert_allclose(table, theirs.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.state["m"], state["exp_avg"].numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ours.state["v"], state["exp_avg_sq"].numpy(), rtol=1e-12)


# Dense Adam, and the rows that catch up with it


@each_dtype
@pytest.mark.parametrize("catch_up", [False, True])
def test_a_step_that_names_every_row_is_one_of_dense_adam(dtype, catch_up):
    table = table_of(8, 5, dtype)
    dense, optimizer = Adam(table.copy(), epsilon_hat=True), RowAdam(table.copy(), catch_up=catch_up)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads, order = rng.standard_normal((8, 5)).astype(dtype), rng.permutation(8)
        dense.step(grads)
        optimizer.step(order, grads[order])
    assert_same_bits(optimizer.params, dense.params)
    for name, moment in dense.state.items():
        assert_same_bits(optimizer.state[name].ravel(), moment)


@each_dtype
@pytest.mark.parametrize("rest", [1, 20, 100])
def test_moments_that_have_rested_are_those_of_dense_adam_to_the_roundings_that_the_docs_state(rest, dtype):
    n, dim, hyper = 5, 6, {"betas": (0.83, 0.97)}
    optimizer = RowAdam(table_of(n, dim, dtype), **hyper, catch_up=True)
    dense = Adam(table_of(n, dim, dtype), **hyper, epsilon_hat=True)
    grads = np.random.default_rng(0).standard_normal((n, dim)).astype(dtype)
    optimizer.step(np.arange(n), grads)
    dense.step(grads)
    for _ in range(rest):
        optimizer.step([2], grads[2:3])
        dense.step(grads * (np.arange(n) == 2)[:, np.newaxis].astype(dtype))
    resting, before = [0, 1, 3, 4], optimizer.params.copy()
    roundings = (rest if dtype is np.float64 else 2 * rest) + 3
    for _ in range(2):  # the second has nothing left to do
        optimizer.flush()
        assert set(optimizer.state["last_step"]) == {optimizer.t} == {rest + 1}
        for name, moment in dense.state.items():
            wanted = moment.reshape(n, dim)
            assert_same_bits(optimizer.state[name][2], wanted[2])
            bound = roundings * np.finfo(dtype).eps / 2
            np.testing.assert_allclose(optimizer.state[name][resting], wanted[resting], rtol=bound)
    assert_same_bits(optimizer.params, before)


@each_dtype
def test_a_row_that_is_named_again_has_the_moments_of_dense_adam(dtype):
    n, dim = 12, 5
    dense, optimizer = Adam(table_of(n, dim, dtype), epsilon_hat=True), RowAdam(table_of(n, dim, dtype), catch_up=True)
    lazy, named_at, longest = RowAdam(table_of(n, dim, dtype)), np.zeros(n, int), 0
    close = {"rtol": 1e-4, "atol": 1e-7} if dtype is np.float32 else {"rtol": 1e-13, "atol": 1e-16}
    for rows, grads in batches(n, dim, dtype, steps=60, most=3):
        whole = np.zeros((n, dim), dtype)
        np.add.at(whole, rows, grads)
        dense.step(whole)
        optimizer.step(rows, grads)
        lazy.step(rows, grads)
        longest = max([longest, *(optimizer.t - named_at[rows])])
        named_at[rows] = optimizer.t
        for name, moment in dense.state.items():
            np.testing.assert_allclose(optimizer.state[name][rows], moment.reshape(n, dim)[rows], **close)
    assert longest > 20
    assert not np.allclose(lazy.state["v"], dense.state["v"].reshape(n, dim), rtol=0.01)


def test_flush_before_a_change_of_betas_keeps_the_old_ones_for_the_steps_before_it():
    optimizers = [RowAdam(table_of(4, 3), betas=(0.5, 0.5), catch_up=True) for _ in range(2)]
    for optimizer in optimizers:
        optimizer.step([0], np.ones((1, 3)))
        optimizer.step([1], np.ones((1, 3)))
    optimizers[0].flush()
    for optimizer in optimizers:
        optimizer.betas = (0.25, 0.125)
        optimizer.step([0], np.zeros((1, 3)))
    assert [optimizer.state["m"][0, 0] for optimizer in optimizers] == [0.5 * 0.5 * 0.25, 0.5 * 0.25**2]
    assert [optimizer.state["v"][0, 0] for optimizer in optimizers] == [0.5 * 0.5 * 0.125, 0.5 * 0.125**2]


def test_flush_of_a_very_long_rest_gives_zeros_without_a_warning():
    optimizer = RowAdam(np.ones((2, 3)), catch_up=True)
    optimizer.step([0, 1], np.ones((2, 3)))
    optimizer.load_state_dict(optimizer.state_dict() | {"t": 10**9})
    with np.errstate(all="raise"):
        optimizer.flush()
    assert not optimizer.state["m"].any()
    assert not optimizer.state["v"].any()


def test_flush_is_for_those_that_catch_up():
    with pytest.raises(ValueError, match="catch_up"):
        RowAdam(np.ones((2, 3))).flush()


# State


@each_flag
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_a_duplicate_keeps_the_table_that_it_shares_and_goes_on_bit_for_bit(duplicate, flags):
    table, steps = table_of(9, 4, np.float32), batches(9, 4, np.float32)
    original = train(RowAdam(table.copy(), lr=0.1, **flags), steps[:4])
    params, optimizer = duplicate((original.params, original))
    assert optimizer.params is params is not original.params
    assert_equals(train(optimizer, steps[4:]), train(naive.RowAdam(table, lr=0.1, **flags), steps))
    assert_equals(original, train(naive.RowAdam(table, lr=0.1, **flags), steps[:4]))


@each_flag
def test_a_state_dict_goes_on_bit_for_bit(flags):
    table, steps = table_of(9, 4), batches(9, 4)
    first = train(RowAdam(table.copy(), lr=0.1, **flags), steps[:4])
    second = RowAdam(first.params.copy(), **flags)
    state = first.state_dict()
    second.load_state_dict(state)
    for array in (state["m"], state["v"]):
        array[:] = np.nan
    assert_equals(train(second, steps[4:]), train(naive.RowAdam(table, lr=0.1, **flags), steps))
    assert first.t == 4


BAD_STATES = {
    "t": ({"t": -1}, ValueError),
    "lr": ({"lr": math.nan}, ValueError),
    "betas": ({"betas": (0.5, 1.0)}, ValueError),
    "m": ({"m": np.zeros(12)}, ValueError),
    "v": ({"v": np.zeros((4, 3), np.float32)}, ValueError),
    "catch_up": ({"catch_up": False}, ValueError),
    "maximize": ({"maximize": 1}, TypeError),
    "last_step": ({"last_step": np.array([0, 1, 2, 3])}, ValueError),
    "last_step negative": ({"last_step": np.array([0, 1, 2, -1])}, ValueError),
    "last_step of floats": ({"last_step": np.zeros(4)}, ValueError),
    "last_step a list": ({"last_step": [0, 0, 0, 0]}, TypeError),
    "rows": ({"rows": 1}, ValueError),
}


@pytest.mark.parametrize(("change", "error"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_refused_by_name_and_changes_nothing(change, error):
    optimizer = train(RowAdam(table_of(4, 3), catch_up=True), batches(4, 3, steps=3))
    state = optimizer.state_dict() | {"t": 2, "last_step": np.array([0, 1, 2, 2])}
    before = snapshot(optimizer)
    with pytest.raises(error, match=next(iter(change))):
        optimizer.load_state_dict(state | change)
    assert snapshot(optimizer) == before
    optimizer.load_state_dict(state)


def test_the_state_is_the_state_itself_in_the_shape_of_the_table():
    optimizer = RowAdam(np.ones((4, 3), np.float32))
    assert list(optimizer.state) == ["m", "v"]
    moment = optimizer.state["m"]
    assert (moment.shape, moment.dtype) == ((4, 3), np.float32)
    optimizer.step([2], np.ones((1, 3), np.float32))
    np.testing.assert_allclose(moment, [[0] * 3, [0] * 3, [0.1] * 3, [0] * 3])
    assert list(RowAdam(np.ones((4, 3)), catch_up=True).state) == ["m", "v", "last_step"]


def test_repr_tells_what_it_optimizes_and_how():
    optimizer = RowAdam(np.zeros((2, 3), np.float32), lr=0.5, catch_up=True)
    assert repr(optimizer) == (
        "RowAdam(6 float32 parameters, lr=0.5, betas=(0.9, 0.999), eps=1e-08, catch_up=True, t=0)"
    )


def test_hyper_parameters_may_change_between_steps_and_compile_nothing():
    optimizer, reference = RowAdam(table_of(5, 3)), naive.RowAdam(table_of(5, 3))
    schedule = Scheduler(optimizer, Exponential(0.1, 0.5))
    compiled = len(getattr(optimizer.stepper._serial_rows, "signatures", []))
    for t, (rows, grads) in enumerate(batches(5, 3)):
        reference.lr, reference.eps = optimizer.lr, 0.5**t
        optimizer.eps = reference.eps
        optimizer.step(rows, grads)
        reference.step(rows, grads)
        schedule.step()
    assert optimizer.lr < 0.01
    assert_equals(optimizer, reference)
    assert len(getattr(optimizer.stepper._serial_rows, "signatures", [])) == max(compiled, 1) or JIT_DISABLED


# What is taken and what is refused


def read_only(array):
    array.flags.writeable = False
    return array


BAD_TABLES = {
    "None": (None, TypeError),
    "lists": ([[1.0, 2.0]], TypeError),
    "a list of arrays": ([np.ones((2, 2))], TypeError),
    "a dict": ({"table": np.ones((2, 2))}, TypeError),
    "integers": (np.ones((2, 2), int), TypeError),
    "float16": (np.ones((2, 2), np.float16), TypeError),
    "another byte order": (np.ones((2, 2), np.dtype(float).newbyteorder()), TypeError),
    "flat": (np.ones(4), ValueError),
    "3-D": (np.ones((2, 2, 2)), ValueError),
    "0-d": (np.array(1.0), ValueError),
    "Fortran order": (np.ones((3, 2), order="F"), ValueError),
    "every other row": (np.ones((4, 2))[::2], ValueError),
    "some columns": (np.ones((4, 4))[:, :2], ValueError),
    "read-only": (read_only(np.ones((2, 2))), ValueError),
    "broadcast": (np.broadcast_to(1.0, (2, 2)), ValueError),
}


@pytest.mark.parametrize(("params", "error"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_refused_by_name(params, error):
    with pytest.raises(error, match="params"):
        RowAdam(params)


@pytest.mark.parametrize("name", ["lr", "betas", "eps"])
@pytest.mark.parametrize(("value", "error"), [(-1.0, ValueError), (math.nan, ValueError), ("0", TypeError)])
def test_bad_numbers_are_refused_by_name(name, value, error):
    value = (0.9, value) if name == "betas" else value
    with pytest.raises(error, match=name):
        RowAdam(np.ones((2, 2)), **{name: value})


@pytest.mark.parametrize("name", ["maximize", "catch_up"])
def test_a_flag_is_true_or_false(name):
    with pytest.raises(TypeError, match=name):
        RowAdam(np.ones((2, 2)), **{name: 1})


BAD_ROWS = {
    "too large": ([0, 1, 4, 9], IndexError, r"rows\[2\] must be in \[0, 4\), got 4"),
    "negative": ([0, 1, -1, 2], IndexError, r"rows\[2\] must be in \[0, 4\), got -1"),
    "the least": ([0, 1, 2, np.iinfo(np.int64).min], IndexError, r"rows\[3\] .* got -9223372036854775808"),
    "the greatest": (np.array([0, 1, 2, 2**64 - 1], np.uint64), IndexError, r"rows\[3\] .* got 18446744073709551615"),
    "floats": ([0.0, 1.0, 2.0, 3.0], TypeError, "rows must be integers, got an array of float64"),
    "NaN": (np.full(4, np.nan), TypeError, "rows"),
    "bools": (np.array([True, False, True, True]), TypeError, "rows must be integers, got an array of bool"),
    "text": (["0", "1", "2", "3"], TypeError, "rows"),
    "objects": (np.array([0, 1, 2, 3], object), TypeError, "rows"),
    "more than 64 bits": ([0, 1, 2, 2**70], TypeError, "rows"),
    "times": (np.zeros(4, "m8[s]"), TypeError, "rows"),
    "None": (None, TypeError, "rows"),
    "no floats": (np.empty(0), TypeError, "rows"),
    "a number": (1, ValueError, r"rows must have the shape \(k,\), got \(\)"),
    "a column": (np.zeros((4, 1), int), ValueError, "rows"),
    "no rows of two": (np.zeros((0, 2), int), ValueError, "rows"),
    "lists of several lengths": ([[0], [1, 2]], ValueError, "rows"),
    "fewer than gradients": ([0, 1, 2], ValueError, r"grads must have the shape \(3, 3\)"),
}


@pytest.mark.parametrize(("rows", "error", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_by_name_and_change_nothing(rows, error, message):
    optimizer = train(RowAdam(table_of(4, 3), catch_up=True), batches(4, 3))
    before = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(rows, np.ones((4, 3)))
    assert snapshot(optimizer) == before


def test_a_bad_row_among_many_is_refused_before_anything_is_changed(threads):
    optimizer = RowAdam(table_of(4, 16, np.float32), catch_up=True)
    rows = np.zeros(PARALLEL_BYTES // 64 + 1, int)
    before = snapshot(optimizer)
    rows[-1] = 4
    with pytest.raises(IndexError, match=r"rows\[4096\] must be in \[0, 4\), got 4"):
        optimizer.step(rows, np.ones((rows.size, 16), np.float32))
    assert snapshot(optimizer) == before


BAD_GRADS = {
    "None": (None, TypeError),
    "lists": ([[1.0] * 3] * 4, TypeError),
    "float32": (np.ones((4, 3), np.float32), TypeError),
    "integers": (np.ones((4, 3), int), TypeError),
    "another byte order": (np.ones((4, 3), np.dtype(float).newbyteorder()), TypeError),
    "flat": (np.ones(12), ValueError),
    "fewer": (np.ones((3, 3)), ValueError),
    "narrower": (np.ones((4, 2)), ValueError),
    "transposed": (np.ones((3, 4)), ValueError),
    "one for all": (np.ones((1, 3)), ValueError),
}


@pytest.mark.parametrize(("grads", "error"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_bad_gradients_are_refused_by_name_and_change_nothing(grads, error):
    optimizer = train(RowAdam(table_of(4, 3), catch_up=True), batches(4, 3))
    before = snapshot(optimizer)
    with pytest.raises(error, match="grads"):
        optimizer.step([0, 1, 2, 1], grads)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 4), slice(3, 5)])
def test_gradients_in_the_memory_of_the_table_are_refused(part):
    whole = np.ones((8, 3))
    optimizer = RowAdam(whole[:4])
    with pytest.raises(ValueError, match="grads must not share memory with params"):
        optimizer.step([0, 1], whole[part])
    assert optimizer.t == 0
    assert (whole == 1).all()
    optimizer.step([0, 1], whole[4:6])


def test_a_table_that_became_read_only_is_refused_and_unchanged():
    optimizer = RowAdam(table := np.ones((4, 3)))
    table.flags.writeable = False
    with pytest.raises(ValueError, match="params must be writeable"):
        optimizer.step([0], np.ones((1, 3)))
    assert optimizer.t == 0
    assert (table == 1).all()


FORMS = {
    "a list": list,
    "a tuple": tuple,
    "a range's array": lambda rows: np.asarray(rows),
    **{dtype: lambda rows, dtype=dtype: rows.astype(dtype) for dtype in ("i1", "u1", ">i2", "u2", "i4", "u4", "u8")},
    "every other": lambda rows: np.repeat(rows, 2)[::2],
    "reversed": lambda rows: rows[::-1].copy()[::-1],
    "read-only": lambda rows: read_only(rows.copy()),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_may_be_integers_of_any_kind(form):
    optimizer, reference = RowAdam(table_of(9, 4)), naive.RowAdam(table_of(9, 4))
    for rows, grads in batches(9, 4):
        given = form(rows)
        optimizer.step(given, grads)
        reference.step(rows, grads)
    assert_equals(optimizer, reference)


GRADIENT_FORMS = {
    "Fortran order": np.asfortranarray,
    "some columns": lambda g: np.hstack([g, g])[:, : g.shape[1]],
    "reversed": lambda g: g[::-1].copy()[::-1],
    "read-only": lambda g: read_only(g.copy()),
}


@pytest.mark.parametrize("form", GRADIENT_FORMS.values(), ids=GRADIENT_FORMS)
def test_gradients_may_lie_as_they_like_and_are_only_read(form):
    optimizer, reference = RowAdam(table_of(9, 4)), naive.RowAdam(table_of(9, 4))
    for rows, grads in batches(9, 4):
        given, before = form(grads), grads.copy()
        optimizer.step(given_rows := rows.copy(), given)
        assert_same_bits(given, before)
        assert_same_bits(given_rows, rows)
        reference.step(rows, grads)
    assert_equals(optimizer, reference)


@given(
    shape=st.tuples(st.integers(0, 6), st.integers(0, 5)),
    rows=st.lists(st.lists(st.integers(-2, 7), max_size=9), max_size=5),
    dtypes=st.tuples(st.sampled_from(["f4", "f8"]), st.sampled_from(["f4", "f8", "f2", "i8"])),
    index_dtype=st.sampled_from(["i8", "i1", "i4", "f8", "?"]),
    flags=st.sampled_from(FLAGS),
    seed=st.integers(0, 99),
)
@examples(300)
def test_a_step_is_taken_to_the_bit_or_refused_as_a_whole(shape, rows, dtypes, index_dtype, flags, seed):
    rng = np.random.default_rng(seed)
    special = [0.0, -0.0, 1e-30, 1e18, np.inf, -np.inf, np.nan]
    table = table_of(*shape, dtypes[0])
    optimizer, reference = RowAdam(table.copy(), 0.1, **flags), naive.RowAdam(table, 0.1, **flags)
    for named in rows:
        values = np.where(rng.random((len(named), shape[1])) < 0.2, rng.choice(special), rng.standard_normal(shape[1]))
        with np.errstate(all="ignore"):
            grads = values.astype(dtypes[1])
        before = snapshot(optimizer)
        allowed = all(0 <= row < shape[0] for row in named)
        if dtypes[0] != dtypes[1] or index_dtype in ("f8", "?"):
            with pytest.raises(TypeError, match=r"rows|grads"):
                optimizer.step(np.array(named, index_dtype), grads)
            assert snapshot(optimizer) == before
        elif not allowed:
            with pytest.raises(IndexError, match="rows"):
                optimizer.step(np.array(named, index_dtype), grads)
            assert snapshot(optimizer) == before
        else:
            with np.errstate(all="ignore"):  # a step warns only where Numba is switched off
                optimizer.step(np.array(named, index_dtype), grads)
                reference.step(named, grads)
    assert_equals(optimizer, reference)
