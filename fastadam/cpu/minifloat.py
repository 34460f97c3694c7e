"""The loop over a state of one byte an element."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam.cpu.element import element_loop
from fastadam.cpu.jit import inner, unrolled
from fastadam.cpu.storage import _block_scale, _dither, _largest
from fastadam.cpu.views import stack_array
from fastadam.formulas import storage as formats
from fastadam.formulas.step import SEED, StepSpec
from fastadam.formulas.storage import CODE_BLOCK


def _loop_over_codes(spec: StepSpec) -> Callable[..., None]:
    """The loop over a state of one byte: block by block, each decoded, updated by the usual loop, and encoded again.

    `start` must be a multiple of the block's size.
    """
    states = len(spec.rule.states)
    update_block, work = element_loop(spec._replace(state="")), stack_array(states * CODE_BLOCK)
    form = [_POSITIVE if name in spec.rule.positive else _SIGNED for name in spec.rule.states]
    names: dict[str, Any] = {"CODE_BLOCK": CODE_BLOCK, "SEED": SEED}
    names |= {f"decode{k}": codec.decode for k, codec in enumerate(form)}
    names |= {f"encode{k}": codec.encode for k, codec in enumerate(form)}
    view = "memory[{k} * CODE_BLOCK : {k} * CODE_BLOCK + size], "
    views = inner(unrolled("views(memory, size)", "return ({})", view, states, **names))
    code = f"decode{{k}}(rows[{{k}}], rows[{{k}} + {states}][a // CODE_BLOCK], a, values[{{k}}]); "
    decode = inner(unrolled("decode(rows, a, values)", "{}pass", code, states, **names))
    code = f"encode{{k}}(rows[{{k}}], rows[{{k}} + {states}], a, values[{{k}}], extra[SEED][{{k}}]); "
    encode = inner(unrolled("encode(rows, a, values, extra)", "{}pass", code, states, **names))
    others = [f"rows[{2 * states}][a:b], "] * spec.ema
    others += [f"rows[{2 * states + spec.ema}][at:to], "] * bool(spec.copy)
    rest = inner(unrolled("rest(rows, a, b, at, to)", "return ({})", "".join(others), 1))

    @inner
    def loop(p, g, rows, start, stop, shift, decay, scalars, extra):
        memory = work(p)
        for a in range(start, stop, CODE_BLOCK):
            b = min(a + CODE_BLOCK, stop)
            at, to = a - shift, b - shift
            values = views(memory, b - a)
            decode(rows, a, values)
            update_block(p[at:to], g[at:to], values + rest(rows, a, b, at, to), 0, b - a, 0, decay, scalars, extra)
            encode(rows, a, values, extra)

    return loop


class _Codec(NamedTuple):
    """What decodes a block of codes, and what encodes it."""

    decode: Callable[..., None]
    encode: Callable[..., None]


def _codec(value_of: Callable[..., Any], code_of: Callable[..., Any]) -> _Codec:
    value_of, code_of = inner(value_of), inner(code_of)

    @inner
    def decode(codes, scale, a, values):
        for j in range(np.uint64(values.size)):
            values[j] = value_of(codes[np.uint64(a) + j], scale)

    @inner
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
