"""The kernels of a step: measure the gradient, advance the step's scalars, update every element in one pass.

`step_kernel` runs over the virtual concatenation of all arrays, in chunks of a fixed number of elements. A chunk that
is whole, and whose arrays begin at multiples of 16 bytes, goes through in vectors: every load comes before the first
store, since a store to one array might, for all that the compiler knows, change another. All other chunks go through
element by element, with the same arithmetic.

What a step takes is in device memory, the step count included, and `advance_kernel`, which is one block, computes the
scalars of the step from it, in float64 as on the CPU. So nothing has to come back to the host, and a captured CUDA
graph replays correctly, also after a change of the settings: between replays only the memory changes.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam import rules
from fastadam.cpu import EMA, HYPER, Variant, preparation
from fastadam.cuda.jit import (
    THREADS,
    VECTOR_BYTES,
    cuda,
    device,
    kernel,
    loader,
    memory,
    scalar_rule,
    to_bfloat16,
    to_float16,
    written,
)

UNROLL = 2
"""Vectors of each array that a thread loads before it stores: enough bytes on their way to fill its latency."""

# A row of the table of segments: its first chunk, its elements, where its parameters, its state and its copy begin (the
# state as an index into each row), and the row of the settings that it takes. The row behind the last has the number of
# chunks.
FIRST, SIZE, P_AT, STATE_AT, COPY_AT, GROUP = range(6)
COLUMNS = 6
WORD = 8

# The settings, in float64: a row of what is not a group's, then a row a group as `Optimizer._row` makes it.
GRAD_SCALE, CLIP_VALUE, EMA_WEIGHT, MAX_NORM, SKIPS, IDLE = range(6)
SETTINGS = 6

# What a step takes of each group, in the type of the parameters: the scalars of the rule come behind.
ACTIVE, DECAY, EXTRA = 0, 1, 2
SCALARS = EXTRA + 3

# The counters, in int64: steps, skipped steps, and whether the last gradient was not finite.
T, SKIPPED, NONFINITE = range(3)
COUNTERS = 3

SHARED = 2 * THREADS
"""Elements of a block's own memory in which it sums: two a thread."""

NORM_CHUNKS = 16
"""Chunks whose squares are summed together: a block of fixed size, so that no number depends on the device."""

_LARGE, _SMALLER = 2.0**490, 2.0**-600
"""Squares of float64s beyond this overflow: they are made smaller first."""


class Pass(NamedTuple):
    """What is compiled into a kernel."""

    variant: Variant
    dtype: str = "float32"

    @property
    def rows(self) -> int:
        """Rows of the state: the rule's, then the average."""
        return len(self.variant.rule.states) + self.variant.ema

    @property
    def row_size(self) -> int:
        """Numbers that a step takes of a group."""
        return SCALARS + scalars_of(self.variant.rule)


def scalars_of(rule: rules.Rule) -> int:
    """How many scalars a rule takes behind the state."""
    return len(inspect.signature(rule.update).parameters) - 2 - len(rule.states)


def chunk_size(dtype: str) -> int:
    """Elements of a chunk."""
    return THREADS * UNROLL * memory(dtype).lanes


# --- one element ----------------------------------------------------------------------------------------------------


@functools.cache
def element(form: Pass) -> Callable[..., tuple[Any, ...]]:
    """What a step does to an element: returns the parameter and its state, from these and a group's numbers."""
    variant = form.variant
    states, prepare, update = len(variant.rule.states), preparation(variant, device), scalar_rule(variant.rule.update)
    average = device(rules.ema)

    if not variant.rule.states:

        @device
        def apply(p, g, state, numbers):
            return (update(p, g, *numbers[SCALARS:]),)

    else:

        @device
        def apply(p, g, state, numbers):
            return update(p, g, *(state[:states] + numbers[SCALARS:]))

    @device
    def plain(p, g, state, numbers):
        p, g = prepare(p, g, numbers[DECAY], numbers[EXTRA:SCALARS])
        return apply(p, g, state, numbers)

    @device
    def averaged(p, g, state, numbers):
        p, g = prepare(p, g, numbers[DECAY], numbers[EXTRA:SCALARS])
        new = apply(p, g, state, numbers)
        return new + (average(state[states], new[0], numbers[EXTRA + EMA]),)  # noqa: RUF005 - Numba adds tuples

    return averaged if variant.ema else plain


# --- the gradient, of one row or summed over several ----------------------------------------------------------------


def _written_sums(function: str, result: str, sums: bool, **names: Any) -> Any:
    """What loads the gradient at an offset: `gradients` has the address of each segment, in each row."""
    more = (
        "    for row in range(1, rows):\n"
        f"        x = {function}(word(gradients + {WORD} * (row * count + k)) + offset)\n"
        f"        g = {result}\n"
    )
    return written(
        "def function(gradients, rows, count, k, offset):\n"
        f"    g = {function}(word(gradients + {WORD} * k) + offset)\n" + (more if sums else "") + "    return g\n",
        word=memory("int64").load,
        **names,
    )


@functools.cache
def gradient_loaders(dtype: str, sums: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What loads one element of the gradient of segment k, and what loads a vector of it."""
    memory_of = memory(dtype)
    lanes = "".join(f"g[{k}] + x[{k}], " for k in range(memory_of.lanes))
    one = _written_sums("load", "g + x", sums, load=memory_of.load)
    return one, _written_sums("load_vector", f"({lanes})", sums, load_vector=memory_of.load_vector)


@functools.cache
def alignment(sums: bool) -> Callable[..., Any]:
    """The bits of the addresses of the gradients of segment k: 0 in the last four if all are aligned."""
    word = memory("int64").load

    @device
    def bits(gradients, rows, count, k):
        found = word(gradients + WORD * k)
        if sums:
            for row in range(1, rows):
                found |= word(gradients + WORD * (row * count + k))
        return found

    return bits


@functools.cache
def gradient_zeroing(dtype: str, sums: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """What leaves zeros in every row of the gradient: in one element, in a vector."""
    zero = np.dtype(dtype).type(0)
    one = _written_zeros(sums, store=memory(dtype).store, value=zero)
    return one, _written_zeros(sums, store=memory(dtype).store_vector, value=(zero,) * memory(dtype).lanes)


def _written_zeros(sums: bool, **names: Any) -> Any:
    rows = f"    for row in range(rows):\n        store(word(gradients + {WORD} * (row * count + k)) + offset, value)\n"
    row = f"    store(word(gradients + {WORD} * k) + offset, value)\n"
    head = "def function(gradients, rows, count, k, offset):\n"
    return written(head + (rows if sums else row), word=memory("int64").load, **names)


# --- one chunk ------------------------------------------------------------------------------------------------------


@functools.cache
def whole_chunk(form: Pass) -> Callable[..., None]:
    """A thread's part of a whole chunk, by vectors. Written out: loads, arithmetic, stores."""
    memory_of = memory(form.dtype)
    lanes, parts, rows = range(memory_of.lanes), range(UNROLL), range(form.rows)
    apart = THREADS * VECTOR_BYTES
    lines = ["def function(p, gradients, k_rows, count, k, offset, state, row_bytes, copy, numbers):"]
    for u in parts:
        lines += [f"at{u} = offset + {u * apart}", f"p{u} = load(p + at{u})"]
        lines += [f"g{u} = gradient(gradients, k_rows, count, k, at{u})"]
        lines += [f"s{u}_{r} = load(state + {r} * row_bytes + {u * apart})" for r in rows]
    for u in parts:
        for lane in lanes:
            state = "".join(f"s{u}_{r}[{lane}], " for r in rows)
            lines += [f"n{u}_{lane} = element(p{u}[{lane}], g{u}[{lane}], ({state}), numbers)"]
    for u in parts:

        def vector(item: int, u: int = u) -> str:
            return ", ".join(f"n{u}_{lane}[{item}]" for lane in lanes)

        lines += [f"store(p + at{u}, ({vector(0)}))"]
        lines += [f"store(state + {r} * row_bytes + {u * apart}, ({vector(r + 1)}))" for r in rows]
        if form.variant.copy:
            rounded = ", ".join(f"round(n{u}_{lane}[0])" for lane in lanes)
            lines += [f"store_copy(copy + at{u} // 2, ({rounded}))"]
        if form.variant.zero_grad:
            lines += [f"zero(gradients, k_rows, count, k, at{u})"]
    return written(
        "\n    ".join(lines) + "\n",
        load=memory_of.load_vector,
        store=memory_of.store_vector,
        gradient=gradient_loaders(form.dtype, form.variant.sums)[1],
        element=element(form),
        zero=gradient_zeroing(form.dtype, form.variant.sums)[1],
        store_copy=memory("uint16").store_vector,
        round=_ROUNDINGS[form.variant.copy],
    )


@functools.cache
def single_element(form: Pass) -> Callable[..., None]:
    """The same for one element."""
    memory_of, rows = memory(form.dtype), range(form.rows)
    lines = ["def function(p, gradients, k_rows, count, k, offset, state, row_bytes, copy, numbers):"]
    state = "".join(f"load(state + {r} * row_bytes), " for r in rows)
    lines += ["g = gradient(gradients, k_rows, count, k, offset)"]
    lines += [f"new = element(load(p + offset), g, ({state}), numbers)", "store(p + offset, new[0])"]
    lines += [f"store(state + {r} * row_bytes, new[{r + 1}])" for r in rows]
    if form.variant.copy:
        lines += ["store_copy(copy + offset // 2, round(new[0]))"]
    if form.variant.zero_grad:
        lines += ["zero(gradients, k_rows, count, k, offset)"]
    return written(
        "\n    ".join(lines) + "\n",
        load=memory_of.load,
        store=memory_of.store,
        gradient=gradient_loaders(form.dtype, form.variant.sums)[0],
        element=element(form),
        zero=gradient_zeroing(form.dtype, form.variant.sums)[0],
        store_copy=memory("uint16").store,
        round=_ROUNDINGS[form.variant.copy],
    )


_ROUNDINGS = {"": None, "float16": to_float16, "bfloat16": to_bfloat16}


# --- all chunks -----------------------------------------------------------------------------------------------------

_word = memory("int64").load


@device
def entry(segments, k, column):
    """An entry of the table of segments."""
    return _word(segments + WORD * (k * COLUMNS + column))


@device
def segment_of(segments, count, chunk):
    """The last segment whose first chunk is not behind this one: one without elements has none of its own."""
    low, high = np.int64(0), np.int64(count)
    while high - low > 1:
        middle = (low + high) // 2
        if _word(segments + WORD * (middle * COLUMNS + FIRST)) <= chunk:
            low = middle
        else:
            high = middle
    return low


@functools.cache
def step_kernel(form: Pass) -> Any:
    """One step over all segments.

    Its arguments are addresses, and the counts that go with them: the table of segments; the gradients, a row of
    addresses of segments for each of `rows`; the state and the elements from one row of it to the next; each group's
    numbers.
    """
    whole, single, bits = whole_chunk(form), single_element(form), alignment(form.variant.sums)
    load_numbers, row_size = loader(form.dtype, form.row_size), form.row_size
    itemsize, chunk_elements = memory(form.dtype).itemsize, chunk_size(form.dtype)
    zero = np.dtype(form.dtype).type(0)

    @kernel
    def step(segments, count, gradients, rows, state, width, numbers_at):
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks = entry(segments, count, FIRST)
        while chunk < chunks:
            k = segment_of(segments, count, chunk)
            start = (chunk - entry(segments, k, FIRST)) * chunk_elements
            size, p, copy = entry(segments, k, SIZE), entry(segments, k, P_AT), entry(segments, k, COPY_AT)
            first = state + entry(segments, k, STATE_AT) * itemsize
            numbers = load_numbers(numbers_at + entry(segments, k, GROUP) * row_size * itemsize)
            stop = min(start + chunk_elements, size)
            if numbers[ACTIVE] != zero:
                if stop - start == chunk_elements and (p | bits(gradients, rows, count, k)) % VECTOR_BYTES == 0:
                    offset = start * itemsize + thread * VECTOR_BYTES
                    whole(p, gradients, rows, count, k, offset, first + offset, width * itemsize, copy, numbers)
                else:
                    for i in range(start + thread, stop, THREADS):
                        offset = i * itemsize
                        single(p, gradients, rows, count, k, offset, first + offset, width * itemsize, copy, numbers)
            chunk += cuda.gridDim.x

    return step


# --- the gradient's norm --------------------------------------------------------------------------------------------


@functools.cache
def norm_kernel(dtype: str, sums: bool) -> Any:
    """Sums of squares, in float64: two for every `NORM_CHUNKS` chunks, of the gradients and of those that are large.

    They are summed in the same order wherever the arrays lie.
    """
    load, load_vector = gradient_loaders(dtype, sums)
    bits, store, chunk_elements = alignment(sums), memory("float64").store, chunk_size(dtype)
    itemsize, lanes, with_large = memory(dtype).itemsize, memory(dtype).lanes, dtype == "float64"
    vector = VECTOR_BYTES // itemsize

    @device
    def add(g, total, large):
        x = np.float64(g)
        if with_large and abs(x) >= _LARGE:
            large += (x * _SMALLER) * (x * _SMALLER)
        else:
            total += x * x
        return total, large

    add_vector = written(
        "def function(g, total, large):\n"
        + "".join(f"    total, large = add(g[{lane}], total, large)\n" for lane in range(lanes))
        + "    return total, large\n",
        add=add,
    )

    @kernel
    def measure(segments, count, gradients, rows, sums_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, task = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks = entry(segments, count, FIRST)
        while task * NORM_CHUNKS < chunks:
            total, large = 0.0, 0.0
            for chunk in range(task * NORM_CHUNKS, min((task + 1) * NORM_CHUNKS, chunks)):
                k = segment_of(segments, count, chunk)
                start, size = (chunk - entry(segments, k, FIRST)) * chunk_elements, entry(segments, k, SIZE)
                aligned = bits(gradients, rows, count, k) % VECTOR_BYTES == 0
                for part in range(UNROLL):
                    i = start + (part * THREADS + thread) * vector
                    if i + vector <= size and aligned:
                        g = load_vector(gradients, rows, count, k, i * itemsize)
                        total, large = add_vector(g, total, large)
                    else:
                        for j in range(i, min(i + vector, size)):
                            total, large = add(load(gradients, rows, count, k, j * itemsize), total, large)
            shared[thread], shared[THREADS + thread] = total, large
            sum_shared(shared, thread)
            if thread == 0:
                store(sums_at + 2 * WORD * task, shared[0])
                store(sums_at + 2 * WORD * task + WORD, shared[THREADS])
            cuda.syncthreads()
            task += cuda.gridDim.x

    return measure


def norm_tasks(chunks: int) -> int:
    """How many pairs of sums `norm_kernel` writes for so many chunks."""
    return -(-chunks // NORM_CHUNKS)


@device
def sum_shared(shared, thread):
    """Sum both halves of the block's memory, each into its first element."""
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
            shared[THREADS + thread] += shared[THREADS + thread + half]
        half //= 2
    cuda.syncthreads()


# --- the step's scalars ---------------------------------------------------------------------------------------------


@functools.cache
def advance_kernel(rule: rules.Rule, dtype: str, measures: bool) -> Any:
    """Count the step, and compute each group's numbers; for one block.

    An idle step, which is so called where there is nothing to learn from, changes and counts nothing.

    With `measures`, it first makes the gradient's factor from the sums of squares, and a step whose gradient is not
    finite is skipped, if the settings say so: then no group is active, and nothing is counted but that.

    `carried` has a float64 for each group: the last hyper-parameter, of a rule that changes it.
    """
    last = len(rule.hyper) - (rule.carry is not None)
    take, compute, carry = loader("float64", last), device(rule.scalars), rule.carry and device(rule.carry)
    load, store = memory("float64").load, memory("float64").store
    word, store_word = memory("int64").load, memory("int64").store
    store_all, itemsize, row_size = memory(dtype).store_all, memory(dtype).itemsize, SCALARS + scalars_of(rule)

    if carry:

        @device
        def scalars(t, row, carried):
            hyper = take(row) + (load(carried),)  # noqa: RUF005 - Numba adds tuples
            store(carried, carry(t, *hyper))
            return compute(t, *hyper)

    else:

        @device
        def scalars(t, row, carried):
            return compute(t, *take(row))

    @kernel
    def advance(settings, settings_width, groups, counters, carried, sums_at, n_sums, numbers_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        factor, idle = 1.0 / load(settings + WORD * GRAD_SCALE), load(settings + WORD * IDLE) != 0.0
        go = 0.0 if idle else 1.0
        if measures:
            total, large = 0.0, 0.0
            for i in range(thread, n_sums, THREADS):
                total += load(sums_at + 2 * WORD * i)
                large += load(sums_at + 2 * WORD * i + WORD)
            shared[thread], shared[THREADS + thread] = total, large
            sum_shared(shared, thread)
            norm = math.sqrt(shared[0])
            if shared[THREADS] != 0.0:
                norm = math.sqrt(norm * _SMALLER * (norm * _SMALLER) + shared[THREADS]) / _SMALLER
            factor = _clipped(factor, norm, load(settings + WORD * GRAD_SCALE), load(settings + WORD * MAX_NORM))
            nonfinite = not norm < math.inf
            if nonfinite and load(settings + WORD * SKIPS) != 0.0:
                go = 0.0
        t = word(counters + WORD * T) + 1
        cuda.syncthreads()  # every thread has read the count
        if thread == 0:
            if go != 0.0:
                store_word(counters + WORD * T, t)
            elif not idle:
                store_word(counters + WORD * SKIPPED, word(counters + WORD * SKIPPED) + 1)
            if measures:
                store_word(counters + WORD * NONFINITE, np.int64(nonfinite))
        clip, weight = load(settings + WORD * CLIP_VALUE), load(settings + WORD * EMA_WEIGHT)
        for group in range(thread, groups, THREADS):
            row, out = settings + WORD * (1 + group) * settings_width, numbers_at + group * row_size * itemsize
            store_all(out, (go * load(row + WORD), load(row), factor, clip, weight))
            if go != 0.0:
                store_all(out + SCALARS * itemsize, scalars(t, row + WORD * HYPER, carried + WORD * group))

    return advance


@device
def _clipped(factor, norm, scale, max_norm):
    """The factor, less where the norm exceeds what it may be; NaN stays NaN. PyTorch adds 1e-6 to the norm."""
    clip = max_norm / (norm / scale + 1e-6)
    return factor if clip > 1.0 else clip * factor


# --- memory ---------------------------------------------------------------------------------------------------------


@functools.cache
def fill_kernel(dtype: str) -> Any:
    """Write one value to every element from an address on."""
    store, itemsize = memory(dtype).store, memory(dtype).itemsize

    @kernel
    def fill(address, size, value):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * itemsize, value)

    return fill


@functools.cache
def copy_kernel(dtype: str, form: str = "") -> Any:
    """Copy so many elements from one address to another, as they are, or as "float16" or "bfloat16"."""
    load, stored = memory(dtype).load, memory("uint16" if form else dtype)
    store, itemsize, stored_size = stored.store, memory(dtype).itemsize, stored.itemsize
    convert = _ROUNDINGS[form] if form else device(_itself)

    @kernel
    def copy(source, address, size):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * stored_size, convert(load(source + i * itemsize)))

    return copy


def _itself(x):
    return x
