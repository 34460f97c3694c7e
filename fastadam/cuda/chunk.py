"""A chunk of the parameters: what a thread does with its part of one, and where the chunks are.

The virtual concatenation of all arrays goes through in chunks of a fixed number of elements. A part of a chunk is
either a few vectors, of a chunk that is whole and lies at addresses that vectors may have, or one element of any other.
Both are the same text with other numbers: every load comes before the first store, since a store to one array might,
for all that the compiler knows, change another; the arithmetic is the same.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastadam import rules
from fastadam.cpu import EMA, Variant, preparation
from fastadam.cuda.jit import SIMULATED, THREADS, VECTOR_BYTES, WORD, device, memory, scalar_rule, written
from fastadam.cuda.storage import POSITIVE, SIGNED, Codec, dithered_store, each, row, seed_of
from fastadam.formats import CODE_BLOCK

# A row of the table of segments: its first chunk, its elements, where its parameters, its state and its copy begin (the
# state as an index into each row), the row of the settings that it takes, and the index from which its elements are
# dithered: that which the host gives them. The row behind the last has the number of chunks.
FIRST, SIZE, P_AT, STATE_AT, COPY_AT, GROUP, INDEX = range(7)
COLUMNS = 7

# The counters, in int64: steps, skipped steps, and whether the last gradient was not finite.
T, SKIPPED, NONFINITE = range(3)
COUNTERS = 3

# What a step takes of each group, in the type of the parameters: the scalars of the rule come behind.
ACTIVE, DECAY, EXTRA = 0, 1, 2
SCALARS = EXTRA + 3


UNROLL = 2
"""Vectors of each array that a thread loads before it stores: enough bytes on their way to fill its latency."""


class StateRow(NamedTuple):
    """A row of the state: what it holds, and where it begins."""

    name: str
    dtype: str
    share: int
    """Elements of the parameters that share one of it."""
    wide: int
    """It begins behind so many bytes for each element of the parameters, ..."""
    narrow: int
    """... and so many for each `CODE_BLOCK` of them."""

    def nbytes(self, width: int) -> int:
        """Its size, for so many elements of the parameters."""
        return width // self.share * np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).itemsize

    def start(self, width: int) -> int:
        """Where it begins, behind the first of the state's bytes."""
        return self.wide * width + self.narrow * (width // CODE_BLOCK)


class Pass(NamedTuple):
    """What is compiled into a kernel."""

    variant: Variant
    dtype: str = "float32"

    @property
    def gradient(self) -> str:
        """The type of the gradients."""
        return self.variant.grad or self.dtype

    @property
    def rows(self) -> tuple[StateRow, ...]:
        """The state: that of the rule, the average, and the scales of a state of one byte."""
        rule, stored = self.variant.rule, self.variant.state
        kinds = [(name, stored or self.dtype, 1) for name in rule.states]
        if self.variant.ema:
            kinds += [("ema", self.dtype, 1)]
        if stored == "uint8":
            kinds += [(f"{name}_scale", self.dtype, CODE_BLOCK) for name in rule.states]
        rows: list[StateRow] = []
        wide = narrow = 0
        for name, dtype, share in kinds:
            rows.append(StateRow(name, dtype, share, wide, narrow))
            itemsize = rows[-1].nbytes(CODE_BLOCK) // (CODE_BLOCK // share)
            wide, narrow = wide + itemsize * (share == 1), narrow + itemsize * (share != 1)
        return tuple(rows)

    def state_bytes(self, width: int) -> int:
        """Bytes of the state, in whole words, for so many elements of the parameters."""
        stops = [row.start(width) + row.nbytes(width) for row in self.rows]
        return -(-max(stops, default=0) // WORD) * WORD

    @property
    def row_size(self) -> int:
        """Numbers that a step takes of a group."""
        return SCALARS + scalars_of(self.variant.rule)

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return memory(self.dtype).lanes

    @property
    def parts(self) -> int:
        """Vectors of a thread; the simulator's few threads need more of them for a block of codes."""
        least = CODE_BLOCK // (THREADS * self.lanes) if SIMULATED and self.variant.state == "uint8" else 0
        return max(UNROLL, least)

    @property
    def chunk(self) -> int:
        """Elements of a chunk; of codes, whole blocks."""
        return THREADS * self.parts * self.lanes


def scalars_of(rule: rules.Rule) -> int:
    """How many scalars a rule takes behind the state."""
    return len(inspect.signature(rule.update).parameters) - 2 - len(rule.states)


# --- where the chunks are -------------------------------------------------------------------------------------------

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

_HEAD = "def function(gradients, rows, count, k, i):\n"
_OF_ROW = f"word(gradients + {WORD} * (row * count + k)) + i * itemsize"


@functools.cache
def gradient_loader(dtype: str, sums: bool, lanes: int) -> Callable[..., Any]:
    """What loads the gradient of elements from `i` on of segment k, as a tuple.

    `gradients` has the address of each segment, in each row. Rows are summed in the type that is computed with.
    """
    access = row(dtype, lanes)
    text = f"{_HEAD}    row = 0\n    g = load({_OF_ROW})\n"
    if sums:
        total = each(lanes, "g[{lane}] + x[{lane}]")
        text += f"    for row in range(1, rows):\n        x = load({_OF_ROW})\n        g = {total}\n"
    return written(text + "    return g\n", word=_word, load=access.load, itemsize=access.itemsize)


@functools.cache
def gradient_zeroing(dtype: str, sums: bool, lanes: int) -> Callable[..., None]:
    """What leaves zeros in every row of it."""
    kind = "uint16" if row(dtype, lanes).itemsize == 2 else dtype
    access, rows = row(kind, lanes), "rows" if sums else "1"
    text = f"{_HEAD}    for row in range({rows}):\n        store({_OF_ROW}, zeros)\n"
    zeros = (np.dtype(kind).type(0),) * lanes
    return written(text, word=_word, store=access.store, itemsize=access.itemsize, zeros=zeros)


@functools.cache
def gradient_alignment(dtype: str, sums: bool, lanes: int) -> Callable[..., bool]:
    """Whether vectors may be loaded from where the gradients of segment k begin."""
    vector = lanes * row(dtype, lanes).itemsize

    @device
    def aligned(gradients, rows, count, k):
        bits = _word(gradients + WORD * k)
        if sums:
            for row_of in range(1, rows):
                bits |= _word(gradients + WORD * (row_of * count + k))
        return bits % vector == 0

    return aligned


@functools.cache
def alignment(form: Pass) -> Callable[..., bool]:
    """Whether a whole chunk of segment k may go through in vectors. The state is always at addresses that allow it."""
    gradient = gradient_alignment(form.gradient, form.variant.sums, form.lanes)
    copy_bytes = 2 * form.lanes

    @device
    def aligned(p, copy, gradients, rows, count, k):
        return p % VECTOR_BYTES == 0 and copy % copy_bytes == 0 and gradient(gradients, rows, count, k)

    return aligned


# --- a thread's part of a chunk -------------------------------------------------------------------------------------


def is_positive(form: Pass, r: int) -> bool:
    """Whether a row of the state is never negative."""
    return form.variant.rule.states[r] in form.variant.rule.positive


def codec_of(form: Pass, r: int) -> Codec:
    """What encodes a row of the state in one byte."""
    return POSITIVE if is_positive(form, r) else SIGNED


class Text:
    """What a thread does with its part of a chunk, as a text, since it is written out for each vector and each lane.

    Of the names in it, `i` is the thread's first element in the segment, `at` the same in the state, `index` that of
    the dither. Part u of it has the parameters p{u}, the gradients g{u}, the rows of the state s{u}_{row} and, if they
    are codes, their scales c{u}_{row}; and n{u}_{lane} is what became of a lane of them, the parameter first.
    """

    ARGUMENTS = "p, copy, gradients, rows, count, k, i, state, width, at, index, t, numbers"

    def __init__(self, form: Pass, *, whole: bool) -> None:
        self.form = form
        self.lanes, self.parts = (form.lanes, form.parts) if whole else (1, 1)
        self.rows = [r for r, kept in enumerate(form.rows) if kept.share == 1]
        codes = [r for r in self.rows if form.rows[r].dtype == "uint8"]
        self.scales = {r: len(self.rows) + r for r in codes}
        variant = form.variant
        self.names: dict[str, Any] = {
            "element": element(form),
            "seed_of": seed_of,
            "load_gradient": gradient_loader(form.gradient, variant.sums, self.lanes),
            "zero": gradient_zeroing(form.gradient, variant.sums, self.lanes),
            "load_p": row(form.dtype, self.lanes).load,
            "store_p": row(form.dtype, self.lanes).store,
        }
        for r in self.rows:
            access = row(form.rows[r].dtype, self.lanes)
            self.names[f"load_{r}"], self.names[f"store_{r}"] = access.load, access.store
            if form.rows[r].dtype == "bfloat16":  # a state, which is dithered
                self.names[f"store_{r}"] = dithered_store(self.lanes, positive=is_positive(form, r))
        for r in self.scales:
            self.names[f"decode_{r}"] = codec_of(form, r).decode
            self.names["load_scale"] = row(form.dtype, 1).load
        if variant.copy:
            self.names["store_copy"] = row(variant.copy, self.lanes).store

    def further(self, u: int) -> int:
        """Elements from the thread's first to that of part u."""
        return u * THREADS * self.lanes

    def place(self, r: int, u: int) -> str:
        """The address of part u of a row of the state."""
        kept = self.form.rows[r]
        access = row(kept.dtype, self.lanes)
        if kept.share == 1:
            return f"state + {kept.wide} * width + at * {access.itemsize} + {self.further(u) * access.itemsize}"
        start = f"state + {kept.wide} * width + width // {CODE_BLOCK} * {kept.narrow}"
        return f"{start} + (at + {self.further(u)}) // {CODE_BLOCK} * {access.itemsize}"

    def loads(self) -> Iterable[str]:
        """Everything that is read."""
        itemsize = row(self.form.dtype, self.lanes).itemsize
        for u in range(self.parts):
            yield f"p{u} = load_p(p + i * {itemsize} + {self.further(u) * itemsize})"
            yield f"g{u} = load_gradient(gradients, rows, count, k, i + {self.further(u)})"
            yield from (f"s{u}_{r} = load_{r}({self.place(r, u)})" for r in self.rows)
            yield from (f"c{u}_{r} = load_scale({self.place(scale, u)})[0]" for r, scale in self.scales.items())

    def arithmetic(self) -> Iterable[str]:
        """What the step does to each element."""
        for u in range(self.parts):
            for lane in range(self.lanes):
                state = "".join(self._old(u, r, lane) + ", " for r in self.rows)
                yield f"n{u}_{lane} = element(p{u}[{lane}], g{u}[{lane}], ({state}), numbers)"

    def _old(self, u: int, r: int, lane: int) -> str:
        stored = f"s{u}_{r}[{lane}]"
        return f"decode_{r}({stored}, c{u}_{r})" if r in self.scales else stored

    def new(self, u: int, item: int) -> str:
        """What became of part u: of its parameters, item 0, or of a row of its state."""
        return "(" + "".join(f"n{u}_{lane}[{item}], " for lane in range(self.lanes)) + ")"

    def stores(self) -> Iterable[str]:
        """Everything that is written, but codes."""
        variant, itemsize = self.form.variant, row(self.form.dtype, self.lanes).itemsize
        for u in range(self.parts):
            yield f"store_p(p + i * {itemsize} + {self.further(u) * itemsize}, {self.new(u, 0)})"
            for item, r in enumerate(self.rows, start=1):
                more = ""
                if self.form.rows[r].dtype == "bfloat16":
                    more = f", index + {self.further(u)}, seed_of(t, {r})"
                if self.form.rows[r].dtype != "uint8":
                    yield f"store_{r}({self.place(r, u)}, {self.new(u, item)}{more})"
            if variant.copy:
                yield f"store_copy(copy + i * 2 + {self.further(u) * 2}, {self.new(u, 0)})"
            if variant.zero_grad:
                yield f"zero(gradients, rows, count, k, i + {self.further(u)})"


@functools.cache
def part_of_chunk(form: Pass, *, whole: bool) -> Callable[..., None]:
    """What a thread does with its vectors of a whole chunk, or with one element."""
    text = Text(form, whole=whole)
    lines = [f"def function({Text.ARGUMENTS}):", *text.loads(), *text.arithmetic(), *text.stores()]
    return written("\n    ".join(lines) + "\n", **text.names)
