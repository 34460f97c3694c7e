"""The step of a state of one byte per element: blocks of codes, each of which has a scale.

The scale of a block follows from its largest new value, which its threads have to find together, and its codes follow
from the scale. So the threads of a whole chunk keep their results until all of them have agreed. If a chunk is not
whole, or not aligned, the results are computed twice instead: there a thread has no fixed number of elements to keep.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastadam.cuda.chunk import Pass, Text, alignment, codec_of, group_numbers
from fastadam.cuda.jit import SIMULATED, THREADS, WARP, bits_of, cuda, device, float_of, formula, kernel
from fastadam.cuda.segments import FIRST_CHUNK, chunk_bounds, entry, places_of, word
from fastadam.cuda.storage import dither, each, row
from fastadam.cuda.tables import T
from fastadam.cuda.views import WORD, memory
from fastadam.formulas import storage
from fastadam.formulas.step import ACTIVE
from fastadam.formulas.storage import CODE_BLOCK

_ONE, _MAGNITUDE, _ALL = np.float32(1), np.uint32(0x7FFFFFFF), np.uint32(0xFFFFFFFF)

_block_scale = formula(storage.block_scale)


@functools.cache
def step_over_codes(form: Pass) -> Any:
    """Compile the kernel that `step.step_kernel` returns for a state of one byte."""
    bounds, numbers_of, update, store_scales = (
        chunk_bounds(form.chunk), group_numbers(form), _chunk_update(form), _scale_stores(form)
    )  # fmt: skip
    slots = len(form.spec.rule.states) * form.chunk // CODE_BLOCK

    @kernel
    def step(segments, count, table, rows, state_at, width, counters, numbers_at):
        most = cuda.shared.array(slots, np.uint32)
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks, gradients = entry(segments, count, FIRST_CHUNK), (table, rows, count)
        state = (state_at, width, word(counters + WORD * T))
        while chunk < chunks:
            where = bounds(segments, count, chunk)
            places, numbers = places_of(segments, where[0]), numbers_of(segments, where[0], numbers_at)
            cuda.syncthreads()  # all have read what the last chunk left
            for slot in range(thread, slots, THREADS):
                most[slot] = np.uint32(0)
            cuda.syncthreads()
            if numbers[ACTIVE] != np.float32(0):
                update(thread, where, places, gradients, state, numbers, most)
                store_scales(thread, where, places, state, most)
            chunk += cuda.gridDim.x

    return step


def _chunk_update(form: Pass) -> Callable[..., None]:
    """Make the function that updates a chunk, and leaves the largest magnitude of each block in `most`."""
    vectors, one = _Codes(form, whole=True), _Codes(form, whole=False)
    agreed = (*vectors.maxima(), "agree()", *vectors.encodings())
    whole = vectors.compiled(
        ", most", *vectors.loads(), *vectors.arithmetic(), *vectors.stores(), *agreed, agree=_agree
    )
    measure = one.compiled(", most", *one.loads(), *one.arithmetic(), *one.maxima())
    finish = one.compiled(", most", *one.loads(), *one.arithmetic(), *one.stores(), *one.encodings())
    aligned, elements, lanes = alignment(form), form.chunk, form.lanes

    @device
    def update(thread, where, places, gradients, state, numbers, most):
        k, start, stop = where
        if stop - start == elements and aligned(places, gradients, k):
            whole(start + thread * lanes, where, places, gradients, state, numbers, most)
        else:
            for i in range(start + thread, stop, THREADS):
                measure(i, where, places, gradients, state, numbers, most)
            cuda.syncthreads()
            for i in range(start + thread, stop, THREADS):
                finish(i, where, places, gradients, state, numbers, most)
            cuda.syncthreads()  # all have read the scales that were

    return update


def _scale_stores(form: Pass) -> Callable[..., None]:
    """Make the function that stores the new scales of a chunk."""
    blocks, scales_at = form.chunk // CODE_BLOCK, form.rows[-1].wide
    slots, store = len(form.spec.rule.states) * blocks, memory("float32").store

    @device
    def store_scales(thread, where, places, state, most):
        start, stop, offset, state_at, width = where[1], where[2], places[2], state[0], state[1]
        for slot in range(thread, slots, THREADS):
            block, r = slot % blocks, slot // blocks
            if block * CODE_BLOCK < stop - start:
                first = state_at + scales_at * width + (r * width + offset + start) // CODE_BLOCK * 4
                store(first + block * 4, _scale(most[slot]))

    return store_scales


class _Codes(Text):
    """Text with `most`: the largest magnitude of each state, in each block of the chunk."""

    def __init__(self, form: Pass, *, whole: bool) -> None:
        super().__init__(form, whole=whole)
        self.blocks = form.chunk // CODE_BLOCK
        self.names |= {"magnitude": _magnitude, "largest": max, "keep": _keep_of_warp if whole else _keep_of_one}
        self.names |= {"inverse_of": _inverse, "dither": dither, "store_codes": row("uint8", self.lanes).store}
        self.names |= {f"encode_{r}": codec_of(form, r).encode for r in self.scales}

    def _each(self) -> Iterable[tuple[int, int, str]]:
        """Vector, row of the state, and place of the largest magnitude of its block."""
        for u in range(self.parts):
            for r in self.scales:
                yield u, r, f"{r * self.blocks} + (within + {self.further(u)}) // {CODE_BLOCK}"

    def maxima(self) -> Iterable[str]:
        """Lines that keep the largest magnitudes."""
        for u, r, slot in self._each():
            yield f"m = magnitude(n{u}_0[{r + 1}])"
            yield from (f"m = largest(m, magnitude(n{u}_{lane}[{r + 1}]))" for lane in range(1, self.lanes))
            yield f"keep(most, {slot}, m)"

    def encodings(self) -> Iterable[str]:
        """Lines that encode the states, and store them."""
        for u, r, slot in self._each():
            yield f"inverse = inverse_of(most[{slot}])"
            yield f"first = dither(index + {self.further(u)}, seed_of(t, {r}))"
            codes = each(self.lanes, f"encode_{r}(n{u}_{{lane}}[{r + 1}], inverse, dither({{lane}}, first))")
            yield f"store_codes({self.place(r, u)}, {codes})"


@device
def _magnitude(x):
    """Return the bits of a magnitude: compared as integers, NaN is the largest."""
    return np.uint32(bits_of(x) & _MAGNITUDE)


@device
def _scale(most):
    """Return what the codes of a block are multiplied by, from the bits of its largest magnitude."""
    return _block_scale(float_of(most))


@device
def _inverse(most):
    return _ONE / _scale(most)


@device
def _agree():
    cuda.syncthreads()


@device
def _keep_of_one(most, slot, bits):
    cuda.atomic.max(most, slot, bits)


@device
def _keep_of_warp(most, slot, bits):
    """Keep the largest of a warp, all of whose elements belong to one block."""
    bits = _warp_maximum(bits)
    if cuda.threadIdx.x % WARP == 0:
        cuda.atomic.max(most, slot, bits)


if SIMULATED:

    def _warp_maximum(x):
        """Return the argument, as a simulated warp is one thread."""
        return x

else:

    @device
    def _warp_maximum(x):
        """Return the largest of the uint32s of a warp, each less than 2**31."""
        most = np.int32(x)
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 16))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 8))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 4))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 2))
        return np.uint32(max(most, cuda.shfl_xor_sync(_ALL, most, 1)))
