"""The rules compiled for the CPU: the loop, its parallel form, and the one-pass step over many arrays.

Reads from the inside out: `element_loop` is a rule, with all that is done in the same pass, in a loop over flat arrays;
`array_blocks` runs it over the virtual concatenation of any number of arrays; `step_kernel` is what Python launches.
The factories take what is fixed for the life of an optimizer, a `Variant`, as constants, so that the loops hold no
branch; all are compiled on first use. How numbers are stored in fewer bytes is in `formats.py`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import DTypeLike, NDArray

from fastadam import formats, rules
from fastadam._arrays import COPY_AT, G_AT, GROUP, OFFSET, P_AT, SIZE
from fastadam.formats import CODE_BLOCK
from fastadam.gemm import squared_norm
from fastadam.jit import array_at, device, kernel, rounded, scalar_rule, stack_array, taker, unrolled

Array = NDArray[Any]

PARALLEL_BYTES = 256 * 1024
"""Size of the parameters from which two threads win. Between threads that never slept they win from half of this on;
but most programs do something else between two steps, and waking a thread costs what it then saves."""

BLOCK = 4_096
"""Elements that a thread takes at a time: the state of a block stays in its L1 cache."""

DECAY, ACTIVE, HYPER = 0, 1, 2
"""Columns of the settings, a row for each group: the weight decay's scalar, whether the group is trained, then what its
rule takes."""

EXTRA = 0
"""The first row of the settings holds what is not a group's."""

SCALE, CLIP, EMA, SEED = range(4)
"""Those are the gradient's factor, its bound, and the weight of the new parameter in the average. Behind them, the
loops get the dither's seeds, one for each state."""

_ema = device(rules.ema)
_dither, _seed_of = device(formats.dither), device(formats.seed_of)
_largest, _block_scale = device(formats.largest), device(formats.block_scale)
_dithered_bfloat16, _positive_bfloat16 = device(formats.dithered_bfloat16), device(formats.positive_bfloat16)
_from_bfloat16 = device(formats.from_bfloat16)
_DECODERS = {"": device(lambda x: x), "float16": formats.from_float16, "bfloat16": _from_bfloat16}
_ENCODERS = {"": None, "float16": formats.to_float16, "bfloat16": device(formats.to_bfloat16)}


class Variant(NamedTuple):
    """What is compiled into a kernel: a rule, and what is done beside it in the same pass."""

    rule: rules.Rule
    decay: str = "none"
    """ "none", "coupled" or "decoupled". """
    maximize: bool = False
    scale: bool = False
    """Multiply the gradient by a factor, which may clip it by norm."""
    clip: bool = False
    """Bound each element of the gradient."""
    ema: bool = False
    """Keep an exponential moving average of the parameters, as one more row behind the state."""
    zero_grad: bool = False
    """Leave zeros where the gradient was."""
    sums: bool = False
    """Sum several rows of gradients."""
    state: str = ""
    """How the state is stored: "bfloat16", "uint8", or "" as the parameters are."""
    grad: str = ""
    """How the gradient is stored: "float16", "bfloat16", or ""."""
    copy: str = ""
    """How the new parameters are written once more: "float16", "bfloat16", or "" not at all."""

    def __str__(self) -> str:
        flags = [name for name, value in self._asdict().items() if value is True]
        stored = [f"{name}_{getattr(self, name)}" for name in ("state", "grad", "copy") if getattr(self, name)]
        return "_".join([self.rule.name, self.decay, *flags, *stored])


@functools.cache
def step_scalars(rule: rules.Rule) -> Callable[..., Any]:
    """What computes the rule's scalars of step `t` in float64, and rounds each once to the type of `like`.

    The hyper-parameters are elements of the flat float64 array `group`, from `HYPER` on.
    """
    compute, take = device(rule.scalars), taker(HYPER, len(rule.hyper))

    @device
    def scalars(like, t, group):
        return rounded(like, compute(t, *take(group)))

    return scalars


@functools.cache
def element_loop(variant: Variant) -> Callable[..., None]:
    """The loop over elements `start:stop` of the state, whose rows are flat arrays: the rule's, then the average.

    Element i of the state belongs to element `i - shift` of `p` and `g`.
    """
    if variant.state == "uint8":
        return _loop_over_codes(variant)
    update, (load, store) = _update(variant.rule), _access(variant.rule, variant.state)
    prepare, finish = preparation(variant, device), _completion(variant)
    read = _DECODERS[variant.grad]

    @device
    def loop(p, g, rows, start, stop, shift, decay, scalars, extra):
        for i in range(np.uint64(start), np.uint64(stop)):  # a signed index might count from the end: no vectors then
            k = i - np.uint64(shift)
            pi, gi = prepare(p[k], read(g[k]), decay, extra)
            new = update(pi, gi, *(load(rows, i) + scalars))
            p[k] = new[0]
            store(rows, i, new, extra)
            finish(rows, i, g, k, new[0], extra)

    return loop


def _update(rule: rules.Rule) -> Callable[..., Any]:
    """The rule, returning a tuple also where it has no state."""
    update = device(scalar_rule(rule.update))
    if rule.states:
        return update
    return device(lambda *arguments: (update(*arguments),))


MAX_STATES = 4


def _access(rule: rules.Rule, form: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    """What loads an element's state as a tuple, and what stores it from behind the parameter."""
    item, assignment = "rows[{k}][i]", "rows[{k}][i] = new[{k} + 1]"
    if form == "bfloat16":
        item = "decoded(rows[{k}][i])"
        assignment = "rows[{k}][i] = encoded{k}(new[{k} + 1], dither(i, extra[SEED][{k}]))"
    states, names = len(rule.states), {"dither": _dither, "SEED": SEED}
    for k, name in enumerate(rule.states):
        names[f"encoded{k}"] = _positive_bfloat16 if name in rule.positive else _dithered_bfloat16
    load = unrolled("load(rows, i)", "return ({})", item + ", ", states, decoded=_from_bfloat16)
    return device(load), device(unrolled("store(rows, i, new, extra)", "{}pass", assignment + "; ", states, **names))


def preparation(variant: Variant, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """What comes before the rule: the gradient's scale, bound and sign, and weight decay, in PyTorch's order.

    `compiled` is the decorator of the backend: CUDA's is another than `device`.
    """
    coupled_decay, decoupled_decay = compiled(rules.coupled_decay), compiled(rules.decoupled_decay)
    scale, clip, maximize = variant.scale, variant.clip, variant.maximize
    coupled, decoupled = variant.decay == "coupled", variant.decay == "decoupled"

    @compiled
    def prepare(pi, gi, decay, extra):
        if scale:
            gi = gi * extra[SCALE]
        if clip:  # written so that NaN stays NaN
            gi = -extra[CLIP] if gi < -extra[CLIP] else extra[CLIP] if gi > extra[CLIP] else gi
        if maximize:
            gi = -gi
        if coupled:
            gi = coupled_decay(pi, gi, decay)
        if decoupled:
            pi = decoupled_decay(pi, decay)
        return pi, gi

    return prepare


def _completion(variant: Variant) -> Callable[..., None]:
    """What comes after the rule: the average and the copy of the parameters, and the gradient's end."""
    zero_grad = variant.zero_grad
    average_at = len(variant.rule.states)
    average = f"row = rows[{average_at}]; row[i] = averaged(row[i], new, extra[EMA])"
    copy = f"rows[{average_at + variant.ema}][k] = encoded(new)"
    tasks = [task for task, wanted in ((average, variant.ema), (copy, variant.copy)) if wanted]
    names = {"encoded": _ENCODERS[variant.copy], "averaged": _ema, "EMA": EMA}
    write = device(unrolled("write(rows, i, k, new, extra)", "{}pass", "; ".join([*tasks, ""]), 1, **names))

    @device
    def finish(rows, i, g, k, new, extra):
        write(rows, i, k, new, extra)
        if zero_grad:
            g[k] = 0

    return finish


def _loop_over_codes(variant: Variant) -> Callable[..., None]:
    """The loop over a state of one byte: block by block, each decoded, updated by the usual loop, and encoded again.

    `start` must be a multiple of the block's size.
    """
    states = len(variant.rule.states)
    inner, work = element_loop(variant._replace(state="")), stack_array(states * CODE_BLOCK)
    form = [_POSITIVE if name in variant.rule.positive else _SIGNED for name in variant.rule.states]
    names: dict[str, Any] = {"CODE_BLOCK": CODE_BLOCK, "SEED": SEED}
    names |= {f"decode{k}": codec.decode for k, codec in enumerate(form)}
    names |= {f"encode{k}": codec.encode for k, codec in enumerate(form)}
    view = "memory[{k} * CODE_BLOCK : {k} * CODE_BLOCK + size], "
    views = device(unrolled("views(memory, size)", "return ({})", view, states, **names))
    code = f"decode{{k}}(rows[{{k}}], rows[{{k}} + {states}][a // CODE_BLOCK], a, values[{{k}}]); "
    decode = device(unrolled("decode(rows, a, values)", "{}pass", code, states, **names))
    code = f"encode{{k}}(rows[{{k}}], rows[{{k}} + {states}], a, values[{{k}}], extra[SEED][{{k}}]); "
    encode = device(unrolled("encode(rows, a, values, extra)", "{}pass", code, states, **names))
    others = [f"rows[{2 * states}][a:b], "] * variant.ema
    others += [f"rows[{2 * states + variant.ema}][at:to], "] * bool(variant.copy)
    rest = device(unrolled("rest(rows, a, b, at, to)", "return ({})", "".join(others), 1))

    @device
    def loop(p, g, rows, start, stop, shift, decay, scalars, extra):
        memory = work(p)
        for a in range(start, stop, CODE_BLOCK):
            b = min(a + CODE_BLOCK, stop)
            at, to = a - shift, b - shift
            values = views(memory, b - a)
            decode(rows, a, values)
            inner(p[at:to], g[at:to], values + rest(rows, a, b, at, to), 0, b - a, 0, decay, scalars, extra)
            encode(rows, a, values, extra)

    return loop


class _Codec(NamedTuple):
    """What decodes a block of codes, and what encodes it."""

    decode: Callable[..., None]
    encode: Callable[..., None]


def _codec(value_of: Callable[..., Any], code_of: Callable[..., Any]) -> _Codec:
    value_of, code_of = device(value_of), device(code_of)

    @device
    def decode(codes, scale, a, values):
        for j in range(np.uint64(values.size)):
            values[j] = value_of(codes[np.uint64(a) + j], scale)

    @device
    def encode(codes, scales, a, values, seed):
        scale = _block_scale(_largest(values))
        scales[a // CODE_BLOCK] = scale
        inverse, first = np.float32(1) / scale, _dither(a, seed)
        for j in range(np.uint64(values.size)):  # the dither of j, not of a + j: with 32 bits to an index, not 64
            codes[np.uint64(a) + j] = code_of(values[j], inverse, _dither(j, first))

    return _Codec(decode, encode)


_SIGNED, _POSITIVE = (
    _codec(formats.signed_value, formats.signed_code),
    _codec(formats.positive_value, formats.positive_code),
)


def _like(dtype: DTypeLike) -> Array:
    """An array of no elements: it tells `array_at` the type of what lies at an address."""
    return np.empty(0, dtype)


def _stored_as(dtype: DTypeLike, form: str) -> Array:
    """The same for numbers in a form of storage."""
    return _like(np.uint16 if form else dtype)


@functools.cache
def row_reader(variant: Variant, dtype: DTypeLike) -> Callable[..., Any]:
    """What makes arrays of the rows of the state, from their addresses."""
    rule, parts = variant.rule, []
    whole = {"": _like(dtype), "bfloat16": _like(np.uint16), "uint8": _like(np.uint8)}[variant.state]
    kinds: list[Any] = [whole for _ in rule.states]
    if variant.state == "uint8":
        kinds += [_like(np.float32)] * len(rule.states)
    kinds += [_like(dtype)] * variant.ema
    parts = [f"array_at(rows_at[{k}], size, like{k}), " for k in range(len(kinds))]
    likes = {f"like{k}": like for k, like in enumerate(kinds)}
    return device(unrolled("rows(rows_at, size)", "return ({})", "".join(parts), 1, array_at=array_at, **likes))


@functools.cache
def array_blocks(variant: Variant, dtype: str) -> Callable[..., None]:
    """The loop over elements `start:stop` of the virtual concatenation of separate arrays.

    `segments` says where they lie, `rows_at` has the addresses of the rows of the state, and `settings` a row of
    hyper-parameters for each group.
    """
    apply, read_rows, scalars_of = _application(variant, dtype), row_reader(variant, dtype), step_scalars(variant.rule)
    extra_of, like = _extra(variant), _like(dtype)

    @device
    def blocks(segments, rows_at, settings, t, start, stop):
        extra = extra_of(like, settings, t)
        rows, k = read_rows(rows_at, segments[OFFSET, -1]), np.searchsorted(segments[OFFSET], start, side="right") - 1
        group = segments[GROUP, k]
        scalars, decay = scalars_of(like, t, settings[group]), rounded(like, (settings[group, DECAY],))
        while start < stop:
            last = segments[OFFSET, k] + segments[SIZE, k]  # what lies between segments belongs to none
            if start < last and settings[segments[GROUP, k], ACTIVE] != 0:
                if segments[GROUP, k] != group:
                    group = segments[GROUP, k]
                    scalars, decay = scalars_of(like, t, settings[group]), rounded(like, (settings[group, DECAY],))
                apply(segments, k, rows, start, min(last, stop), decay[0], scalars, extra)
            k += 1
            start = segments[OFFSET, k]

    return blocks


def _application(variant: Variant, dtype: str) -> Callable[..., None]:
    """What runs the loop over elements `start:stop` of the concatenation, all of them of segment k."""
    if variant.sums:
        return _application_to_sums(variant, dtype)
    loop, with_copy = element_loop(variant), _copy_reader(variant)
    like, like_g = _like(dtype), _stored_as(dtype, variant.grad)

    @device
    def apply(segments, k, rows, start, stop, decay, scalars, extra):
        size = segments[SIZE, k]
        p, g = array_at(segments[P_AT, k], size, like), array_at(segments[G_AT, k], size, like_g)
        rows = with_copy(rows, segments[COPY_AT, k], size)
        loop(p, g, rows, start, stop, segments[OFFSET, k], decay, scalars, extra)

    return apply


def _application_to_sums(variant: Variant, dtype: str) -> Callable[..., None]:
    """The same where there are several rows of gradients: they are summed piece by piece, in cache."""
    loop, with_copy = element_loop(variant._replace(zero_grad=False, grad="")), _copy_reader(variant)
    sum_rows, work, like = gradient_sum(dtype, variant.grad), stack_array(SUM_BLOCK), _like(dtype)
    like_g, zero_grad, itemsize = _stored_as(dtype, variant.grad), variant.zero_grad, np.dtype(dtype).itemsize

    @device
    def apply(segments, k, rows, start, stop, decay, scalars, extra):
        total, first = work(like), segments[OFFSET, k]
        for a in range(start, stop, SUM_BLOCK):
            size, at = min(SUM_BLOCK, stop - a), a - first
            sum_rows(segments, k, at, total[:size])
            p = array_at(segments[P_AT, k] + at * itemsize, size, like)
            rest = with_copy(rows, segments[COPY_AT, k] + 2 * at, size)
            loop(p, total, rest, a, a + size, a, decay, scalars, extra)
        if zero_grad:
            for row in range(G_AT, segments.shape[0]):
                array_at(segments[row, k], segments[SIZE, k], like_g)[start - first : stop - first] = 0

    return apply


def _copy_reader(variant: Variant) -> Callable[..., Any]:
    """What joins the copy of a segment to the rows, if there is one."""
    if not variant.copy:
        return device(lambda rows, at, size: rows)
    like = _like(np.uint16)
    return device(lambda rows, at, size: rows + (array_at(at, size, like),))  # noqa: RUF005 a tuple of unlike types


SUM_BLOCK = 1024
"""Elements whose gradients are summed, or decoded for their norm, at a time."""


@functools.cache
def gradient_sum(dtype: str, grad: str) -> Callable[..., None]:
    """What sums the gradients of a segment, from element `at` on, over their rows and in the order of these."""
    like, read = _stored_as(dtype, grad), _DECODERS[grad]
    itemsize = like.itemsize

    @device
    def add(total, g, is_first):
        if is_first:
            for i in range(np.uint64(total.size)):
                total[i] = read(g[i])
        else:
            for i in range(np.uint64(total.size)):
                total[i] += read(g[i])

    @device
    def sum_rows(segments, k, at, total):
        for row in range(G_AT, segments.shape[0]):
            add(total, array_at(segments[row, k] + at * itemsize, total.size, like), row == G_AT)

    return sum_rows


@functools.cache
def step_kernel(variant: Variant, dtype: str, parallel: bool) -> Callable[..., None]:
    """One step over separate arrays in one call, serial or parallel; the results are the same bits."""
    blocks, cached, name = array_blocks(variant, dtype), variant.rule.cached, f"{variant}_{dtype}"
    if parallel:

        @kernel(parallel=True, variant=name, cached=cached)
        def parallel_step(segments, rows_at, settings, t):
            size = segments[OFFSET, -1]
            for block in prange((size + BLOCK - 1) // BLOCK):
                start, stop = block * BLOCK, min((block + 1) * BLOCK, size)
                blocks(segments, rows_at, settings, t, start, stop)

        return parallel_step

    @kernel(variant=name, cached=cached)
    def serial_step(segments, rows_at, settings, t):
        blocks(segments, rows_at, settings, t, 0, segments[OFFSET, -1])

    return serial_step


def _extra(variant: Variant) -> Callable[..., Any]:
    """What reads the extra scalars, and adds a seed for each state that is dithered."""
    take = taker(0, SEED)
    seed = "_seed_of(t, {k}), "
    count = len(variant.rule.states) if variant.state else 0
    seeds = device(unrolled("seeds(t)", "return ({})", seed, count, _seed_of=_seed_of))
    return device(lambda like, settings, t: rounded(like, take(settings[EXTRA])) + (seeds(t),))  # noqa: RUF005 unlike types


@functools.cache
def norm_kernel(dtype: str, grad: str, sums: bool, parallel: bool) -> Callable[..., None]:
    """The sums of squares of blocks of the gradient, in float64: of fixed size, so the same on any threads."""
    like, sum_rows, work = _like(dtype), gradient_sum(dtype, grad), stack_array(SUM_BLOCK)
    direct = not (sums or grad)

    @device
    def piece(segments, k, start, stop, total):
        if direct:
            return squared_norm(array_at(segments[G_AT, k], segments[SIZE, k], like), start, stop)
        result = 0.0
        for a in range(start, stop, SUM_BLOCK):
            size = min(SUM_BLOCK, stop - a)
            sum_rows(segments, k, a, total[:size])
            result += squared_norm(total, 0, size)
        return result

    @device
    def blocks(segments, start, stop):
        total, k = 0.0, np.searchsorted(segments[OFFSET], start, side="right") - 1
        memory = work(like)
        while start < stop:
            first, last = segments[OFFSET, k], min(segments[OFFSET, k] + segments[SIZE, k], stop)
            if start < last:
                total += piece(segments, k, start - first, last - first, memory)
            k += 1
            start = segments[OFFSET, k]
        return total

    name = "_".join([dtype, grad, "sums" * sums])
    if parallel:

        @kernel(parallel=True, variant=name)
        def parallel_norm(segments, results):
            for block in prange(results.size):
                results[block] = blocks(segments, block * BLOCK, min((block + 1) * BLOCK, segments[OFFSET, -1]))

        return parallel_norm

    @kernel(variant=name)
    def serial_norm(segments, results):
        for block in range(results.size):
            results[block] = blocks(segments, block * BLOCK, min((block + 1) * BLOCK, segments[OFFSET, -1]))

    return serial_norm


def gradient_norm(segments: Array, dtype: str, grad: str, parallel: bool) -> float:
    """The Euclidean norm of the sum of all rows of gradients; infinite or NaN just where that is.

    Squares may overflow where the gradients do not: then they are summed again in float64.
    """
    results = np.empty(-(-int(segments[OFFSET, -1]) // BLOCK))
    norm_kernel(dtype, grad, len(segments) > G_AT + 1, parallel)(segments, results)
    total = float(results.sum())
    return math.sqrt(total) if math.isfinite(total) else _scaled_norm(segments, dtype, grad)


def _scaled_norm(segments: Array, dtype: str, grad: str) -> float:
    """The same by way of the largest element."""
    pieces = [np.empty(size, dtype) for size in segments[SIZE, :-1]]
    for k, piece in enumerate(pieces):
        sum_kernel(dtype, grad)(segments, k, piece)
    largest = float(np.max([np.abs(piece).max(initial=0) for piece in pieces]))
    if not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(np.square(piece / largest, dtype=np.float64).sum()) for piece in pieces))


@functools.cache
def sum_kernel(dtype: str, grad: str) -> Callable[..., None]:
    """The gradient of a segment, summed over its rows, for Python."""
    sum_rows = gradient_sum(dtype, grad)

    @kernel(variant=f"{dtype}_{grad}")
    def summed(segments, k, total):
        sum_rows(segments, k, 0, total)

    return summed
