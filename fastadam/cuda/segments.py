"""The table of segments on a device, and the chunks of a fixed number of elements that blocks take from it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam._typing import Array
from fastadam.cuda.jit import device
from fastadam.cuda.views import WORD, memory
from fastadam.formulas.step import COPY_AT, GROUP, OFFSET, P_AT, SIZE

FIRST_CHUNK, DITHER_AT, COLUMNS = 5, 6, 7
"""Columns of the table that only CUDA has: first chunk of the segment, and index from which its elements are dithered,
which is the one they have on the host.

The table has a row for each segment, and one more with the number of chunks. The columns before these are those of
`formulas.step`, whose `OFFSET` is an index into each row of the state."""


class Segments(NamedTuple):
    """Places of the parameters on the device."""

    addresses: Sequence[int]
    sizes: Sequence[int]
    state_at: Sequence[int]
    """First element of each segment in a row of the state, and length of the row. They are multiples of 128 bytes of
    the type of the row if the parameters are at a multiple of 16 bytes, and of whole blocks if the state is stored in
    one byte."""
    group_of: Sequence[int]
    dither_at: Sequence[int] | None = None
    """Index from which the elements of each segment are dithered; only used for a state in fewer bytes."""
    copies: Sequence[int] | None = None
    """Addresses of the copies in two bytes, if there are any."""


def table_of(segments: Segments, chunk: int) -> Array:
    """Make the table of segments, for chunks of `chunk` elements."""
    count = len(segments.addresses)
    table = np.zeros((count + 1, COLUMNS), np.int64)
    np.cumsum([-(-size // chunk) for size in segments.sizes], out=table[1:, FIRST_CHUNK])
    columns = {
        SIZE: segments.sizes,
        P_AT: segments.addresses,
        GROUP: segments.group_of,
        DITHER_AT: segments.dither_at or [0] * count,
        COPY_AT: segments.copies or [0] * count,
    }
    for column, values in columns.items():
        table[:-1, column] = values
    table[:, OFFSET] = segments.state_at
    return table


word = memory("int64").load


@device
def entry(segments, k, column):
    """Load an entry of the table."""
    return word(segments + WORD * (k * COLUMNS + column))


@device
def segment_of(segments, count, chunk):
    """Find the segment of a chunk by bisection: the last one that begins with it or before.

    A segment without elements has no chunk of its own.
    """
    low, high = np.int64(0), np.int64(count)
    while high - low > 1:
        middle = (low + high) // 2
        if word(segments + WORD * (middle * COLUMNS + FIRST_CHUNK)) <= chunk:
            low = middle
        else:
            high = middle
    return low


@functools.cache
def chunk_bounds(elements: int) -> Callable[..., Any]:
    """Make the function that returns the segment of a chunk, and the bounds of the chunk in it."""

    @device
    def bounds(segments, count, chunk):
        k = segment_of(segments, count, chunk)
        start = (chunk - entry(segments, k, FIRST_CHUNK)) * elements
        return k, start, min(start + elements, entry(segments, k, SIZE))

    return bounds


@device
def places_of(segments, k):
    """Return the addresses of the parameters and of the copy of segment k, its offset in the state and its dither."""
    return (
        entry(segments, k, P_AT),
        entry(segments, k, COPY_AT),
        entry(segments, k, OFFSET),
        entry(segments, k, DITHER_AT),
    )
