"""The part of a chunk that a thread updates, and the description of a step that it is compiled from.

The virtual concatenation of all arrays is cut into chunks of a fixed number of elements. A part is either a few
vectors, if the chunk is whole and lies at addresses that vectors may have, or one element. Both come from one text with
different numbers: every load precedes the first store, since the compiler must assume that a store to one array changes
another. The arithmetic is the same.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastadam.cuda.element import count_of_scalars, element
from fastadam.cuda.gradients import gradient_alignment, gradient_loader, gradient_zeroing
from fastadam.cuda.jit import SIMULATED, THREADS, device
from fastadam.cuda.segments import entry
from fastadam.cuda.state import StateRow, state_rows
from fastadam.cuda.storage import POSITIVE, SIGNED, Codec, dithered_store, row, seed_of
from fastadam.cuda.tables import SCALARS
from fastadam.cuda.views import ACCESS_BYTES, loader, memory
from fastadam.formulas.backend import from_text
from fastadam.formulas.step import GROUP, StepSpec
from fastadam.formulas.storage import CODE_BLOCK

UNROLL = 2
"""Vectors of each array that a thread loads before it stores: enough bytes in flight to hide the latency of memory."""


class Pass(NamedTuple):
    """Description of a step kernel: the step, and the type it is computed in."""

    spec: StepSpec
    dtype: str = "float32"

    @property
    def gradient(self) -> str:
        """Type of the gradients."""
        return self.spec.grad or self.dtype

    @property
    def rows(self) -> tuple[StateRow, ...]:
        """Rows of the state."""
        return state_rows(self.spec, self.dtype)

    @property
    def row_size(self) -> int:
        """Numbers that a step takes of each group."""
        return SCALARS + count_of_scalars(self.spec.rule)

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return memory(self.dtype).lanes

    @property
    def parts(self) -> int:
        """Vectors of a thread; the few threads of the simulator need more of them to fill a block of codes."""
        least = CODE_BLOCK // (THREADS * self.lanes) if SIMULATED and self.spec.state == "uint8" else 0
        return max(UNROLL, least)

    @property
    def chunk(self) -> int:
        """Elements of a chunk; with codes, whole blocks of them."""
        return THREADS * self.parts * self.lanes


def is_positive(form: Pass, r: int) -> bool:
    """Tell whether a row of the state is never negative."""
    return form.spec.rule.states[r] in form.spec.rule.positive


def codec_of(form: Pass, r: int) -> Codec:
    """Return the codec of a row of the state that is stored in one byte."""
    return POSITIVE if is_positive(form, r) else SIGNED


@functools.cache
def group_numbers(form: Pass) -> Callable[..., Any]:
    """Make the function that loads the numbers of the group of segment k."""
    load, nbytes = loader(form.dtype, form.row_size), form.row_size * memory(form.dtype).itemsize

    @device
    def numbers(segments, k, numbers_at):
        return load(numbers_at + entry(segments, k, GROUP) * nbytes)

    return numbers


@functools.cache
def alignment(form: Pass) -> Callable[..., bool]:
    """Make the function that tells whether a whole chunk of segment k may be updated in vectors.

    Addresses of the state always allow it.
    """
    gradient, copy_bytes = gradient_alignment(form.gradient, form.spec.sums, form.lanes), 2 * form.lanes

    @device
    def aligned(places, gradients, k):
        return places[0] % ACCESS_BYTES == 0 and places[1] % copy_bytes == 0 and gradient(gradients, k)

    return aligned


class Text:
    """Text of the function that updates a thread's part of a chunk, written out for each vector and each lane.

    Its arguments are the first element `i` of the part in its segment; the segment of the chunk and its bounds in it,
    see `segments.chunk_bounds`; the `places` of the segment, see `segments.places_of`; the `gradients`, see
    `gradients.py`; the address of the state, the width of its rows and the step; and the `numbers` of the group. In the
    text, `at` is the first element in a row of the state, and `index` its dither. Vector u has the parameters p{u}, the
    gradients g{u}, the rows of the state s{u}_{row} and, if they are codes, their scales c{u}_{row}; n{u}_{lane} is the
    new value of a lane, the parameter first.
    """

    ARGUMENTS = "i, chunk, places, gradients, state, numbers"

    UNPACKED = (
        "k, start, stop = chunk",
        "p, copy, offset, dither_at = places",
        "state_at, width, t = state",
        "at, index, within = offset + i, dither_at + i, i - start",
    )

    def __init__(self, form: Pass, *, whole: bool) -> None:
        self.form = form
        self.lanes, self.parts = (form.lanes, form.parts) if whole else (1, 1)
        self.rows = [r for r, kept in enumerate(form.rows) if kept.share == 1]
        codes = [r for r in self.rows if form.rows[r].dtype == "uint8"]
        self.scales = {r: len(self.rows) + r for r in codes}
        spec = form.spec
        self.names: dict[str, Any] = {
            "element": element(spec),
            "seed_of": seed_of,
            "load_gradient": gradient_loader(form.gradient, spec.sums, self.lanes),
            "zero": gradient_zeroing(form.gradient, spec.sums, self.lanes),
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
        if spec.copy:
            self.names["store_copy"] = row(spec.copy, self.lanes).store

    def further(self, u: int) -> int:
        """Elements from the first of the part to the first of vector u."""
        return u * THREADS * self.lanes

    def place(self, r: int, u: int) -> str:
        """Address of vector u of a row of the state."""
        kept = self.form.rows[r]
        access = row(kept.dtype, self.lanes)
        if kept.share == 1:
            return f"state_at + {kept.wide} * width + at * {access.itemsize} + {self.further(u) * access.itemsize}"
        start = f"state_at + {kept.wide} * width + width // {CODE_BLOCK} * {kept.narrow}"
        return f"{start} + (at + {self.further(u)}) // {CODE_BLOCK} * {access.itemsize}"

    def loads(self) -> Iterable[str]:
        """Lines that load everything."""
        itemsize = row(self.form.dtype, self.lanes).itemsize
        for u in range(self.parts):
            yield f"p{u} = load_p(p + i * {itemsize} + {self.further(u) * itemsize})"
            yield f"g{u} = load_gradient(gradients, k, i + {self.further(u)})"
            yield from (f"s{u}_{r} = load_{r}({self.place(r, u)})" for r in self.rows)
            yield from (f"c{u}_{r} = load_scale({self.place(scale, u)})[0]" for r, scale in self.scales.items())

    def arithmetic(self) -> Iterable[str]:
        """Lines that update each element."""
        for u in range(self.parts):
            for lane in range(self.lanes):
                state = "".join(self._old(u, r, lane) + ", " for r in self.rows)
                yield f"n{u}_{lane} = element(p{u}[{lane}], g{u}[{lane}], ({state}), numbers)"

    def _old(self, u: int, r: int, lane: int) -> str:
        stored = f"s{u}_{r}[{lane}]"
        return f"decode_{r}({stored}, c{u}_{r})" if r in self.scales else stored

    def new(self, u: int, item: int) -> str:
        """Tuple of the new values of vector u: of the parameters, item 0, or of a row of the state."""
        return "(" + "".join(f"n{u}_{lane}[{item}], " for lane in range(self.lanes)) + ")"

    def stores(self) -> Iterable[str]:
        """Lines that store everything but codes."""
        spec, itemsize = self.form.spec, row(self.form.dtype, self.lanes).itemsize
        for u in range(self.parts):
            yield f"store_p(p + i * {itemsize} + {self.further(u) * itemsize}, {self.new(u, 0)})"
            for item, r in enumerate(self.rows, start=1):
                more = ""
                if self.form.rows[r].dtype == "bfloat16":
                    more = f", index + {self.further(u)}, seed_of(t, {r})"
                if self.form.rows[r].dtype != "uint8":
                    yield f"store_{r}({self.place(r, u)}, {self.new(u, item)}{more})"
            if spec.copy:
                yield f"store_copy(copy + i * 2 + {self.further(u) * 2}, {self.new(u, 0)})"
            if spec.zero_grad:
                yield f"zero(gradients, k, i + {self.further(u)})"

    def compiled(self, arguments: str, *lines: str, **names: Any) -> Callable[..., None]:
        """Compile the function of these lines; `arguments` are those it takes after the common ones."""
        head = f"part({self.ARGUMENTS}{arguments})"
        return device(from_text(head, *self.UNPACKED, *lines, **self.names, **names))


@functools.cache
def part_of_chunk(form: Pass, *, whole: bool) -> Callable[..., None]:
    """Make the function that updates a thread's vectors of a whole chunk, or one element."""
    text = Text(form, whole=whole)
    return text.compiled("", *text.loads(), *text.arithmetic(), *text.stores())
