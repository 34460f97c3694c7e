"""The step of a state of one byte: blocks of codes, of which each has a scale.

A block's scale follows from its largest new value, which its threads have to find together, and its codes follow from
the scale. So the threads of a whole chunk keep what they have computed until all of them have agreed. Of a chunk that
is not whole, or not aligned, they compute it twice instead: there a thread has no fixed number of elements to keep.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastadam.cuda.chunk import (
    ACTIVE,
    COPY_AT,
    FIRST,
    GROUP,
    INDEX,
    P_AT,
    SIZE,
    STATE_AT,
    Pass,
    T,
    Text,
    alignment,
    codec_of,
    entry,
    segment_of,
)
from fastadam.cuda.jit import (
    THREADS,
    WARP,
    WORD,
    bits_of,
    cuda,
    device,
    float_of,
    kernel,
    loader,
    memory,
    warp_maximum,
    written,
)
from fastadam.cuda.storage import block_scale, dither, each, row
from fastadam.formats import CODE_BLOCK

_ONE, _MAGNITUDE = np.float32(1), np.uint32(0x7FFFFFFF)


@device
def _magnitude(x):
    """The bits of a magnitude: compared as integers, NaN is the largest."""
    return np.uint32(bits_of(x) & _MAGNITUDE)


@device
def _scale(most):
    """What the codes of a block are multiplied by, from the bits of its largest magnitude."""
    return block_scale(float_of(most))


@device
def _inverse(most):
    return _ONE / _scale(most)


@device
def _keep_of_one(most, slot, bits):
    cuda.atomic.max(most, slot, bits)


@device
def _keep_of_warp(most, slot, bits):
    """Keep the largest of a warp, all of whose elements belong to one block."""
    bits = warp_maximum(bits)
    if cuda.threadIdx.x % WARP == 0:
        cuda.atomic.max(most, slot, bits)


class _Codes(Text):
    """A thread's part of a chunk, with `most`: the largest magnitude of each state, in each block of the chunk.

    `within` is the thread's first element within the chunk.
    """

    def __init__(self, form: Pass, *, whole: bool) -> None:
        super().__init__(form, whole=whole)
        self.blocks = form.chunk // CODE_BLOCK
        self.names |= {"magnitude": _magnitude, "largest": max, "keep": _keep_of_warp if whole else _keep_of_one}
        self.names |= {"inverse_of": _inverse, "dither": dither, "store_codes": row("uint8", self.lanes).store}
        self.names |= {f"encode_{r}": codec_of(form, r).encode for r in self.scales}

    def _each(self) -> Iterable[tuple[int, int, str]]:
        """Part, row of the state, and where its block has its largest magnitude."""
        for u in range(self.parts):
            for r in self.scales:
                yield u, r, f"{r * self.blocks} + (within + {self.further(u)}) // {CODE_BLOCK}"

    def maxima(self) -> Iterable[str]:
        """Keep the largest magnitudes."""
        for u, r, slot in self._each():
            yield f"m = magnitude(n{u}_0[{r + 1}])"
            yield from (f"m = largest(m, magnitude(n{u}_{lane}[{r + 1}]))" for lane in range(1, self.lanes))
            yield f"keep(most, {slot}, m)"

    def encodings(self) -> Iterable[str]:
        """Encode the states, and store them."""
        for u, r, slot in self._each():
            yield f"inverse = inverse_of(most[{slot}])"
            yield f"first = dither(index + {self.further(u)}, seed_of(t, {r}))"
            codes = each(self.lanes, f"encode_{r}(n{u}_{{lane}}[{r + 1}], inverse, dither({{lane}}, first))")
            yield f"store_codes({self.place(r, u)}, {codes})"

    def compiled(self, *lines: str, **names: Any) -> Any:
        """The function of these lines."""
        head = f"def function({self.ARGUMENTS}, within, most):"
        return written("\n    ".join([head, *lines]) + "\n", **self.names, **names)


@functools.cache
def step_kernel(form: Pass) -> Any:
    """As `step.step_kernel`."""
    vectors, one = _Codes(form, whole=True), _Codes(form, whole=False)
    whole = vectors.compiled(
        *vectors.loads(),
        *vectors.arithmetic(),
        *vectors.stores(),
        *vectors.maxima(),
        "agree()",
        *vectors.encodings(),
        agree=_agree,
    )
    measure = one.compiled(*one.loads(), *one.arithmetic(), *one.maxima())
    finish = one.compiled(*one.loads(), *one.arithmetic(), *one.stores(), *one.encodings())
    aligned, load_numbers = alignment(form), loader(form.dtype, form.row_size)
    numbers_bytes, chunk_elements, lanes = form.row_size * memory(form.dtype).itemsize, form.chunk, form.lanes
    states, blocks = len(form.variant.rule.states), form.chunk // CODE_BLOCK
    slots, scales_at = states * blocks, form.rows[-1].wide
    word, store_scale = memory("int64").load, memory("float32").store

    @kernel
    def step(segments, count, gradients, rows, state, width, counters, numbers_at):
        most = cuda.shared.array(slots, np.uint32)
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks, t = entry(segments, count, FIRST), word(counters + WORD * T)
        while chunk < chunks:
            k = segment_of(segments, count, chunk)
            start = (chunk - entry(segments, k, FIRST)) * chunk_elements
            size, p, copy = entry(segments, k, SIZE), entry(segments, k, P_AT), entry(segments, k, COPY_AT)
            at, index = entry(segments, k, STATE_AT), entry(segments, k, INDEX)
            numbers = load_numbers(numbers_at + entry(segments, k, GROUP) * numbers_bytes)
            stop = min(start + chunk_elements, size)
            cuda.syncthreads()  # all have read what the last chunk left
            for slot in range(thread, slots, THREADS):
                most[slot] = np.uint32(0)
            cuda.syncthreads()
            if numbers[ACTIVE] != np.float32(0):
                if stop - start == chunk_elements and aligned(p, copy, gradients, rows, count, k):
                    i = start + thread * lanes
                    a, b, w = at + i, index + i, i - start
                    whole(p, copy, gradients, rows, count, k, i, state, width, a, b, t, numbers, w, most)
                else:
                    for i in range(start + thread, stop, THREADS):
                        a, b, w = at + i, index + i, i - start
                        measure(p, copy, gradients, rows, count, k, i, state, width, a, b, t, numbers, w, most)
                    cuda.syncthreads()
                    for i in range(start + thread, stop, THREADS):
                        a, b, w = at + i, index + i, i - start
                        finish(p, copy, gradients, rows, count, k, i, state, width, a, b, t, numbers, w, most)
                    cuda.syncthreads()  # all have read the scales that were
                for slot in range(thread, slots, THREADS):
                    block, r = slot % blocks, slot // blocks
                    if block * CODE_BLOCK < stop - start:
                        first = state + scales_at * width + (r * width + at + start) // CODE_BLOCK * 4
                        store_scale(first + block * 4, _scale(most[slot]))
            chunk += cuda.gridDim.x

    return step


@device
def _agree():
    cuda.syncthreads()
