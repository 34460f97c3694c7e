"""The loop over a state of one byte per element, which decodes, updates and encodes it block by block."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam.cpu.jit import formula, inner
from fastadam.cpu.views import stack_array
from fastadam.formulas import storage
from fastadam.formulas.backend import from_text, repeated
from fastadam.formulas.rules import Rule
from fastadam.formulas.step import SEED, StepSpec
from fastadam.formulas.storage import CODE_BLOCK

_dither, _largest, _block_scale = formula(storage.dither), formula(storage.largest), formula(storage.block_scale)


def loop_over_codes(spec: StepSpec, update_block: Callable[..., None]) -> Callable[..., None]:
    """Make the loop over elements `start:stop`, where `start` is a multiple of `CODE_BLOCK`.

    `update_block` is the loop of the same step over a state in the type computed with. `state` has the codes of each
    state of the rule, then their scales, then the average and the copy of the parameters, if there are any.
    """
    states = len(spec.rule.states)
    work, block_views, other_arrays = stack_array(states * CODE_BLOCK), _block_views(states), _other_arrays(spec)
    decode, encode = _decoding(spec.rule), _encoding(spec.rule)

    @inner
    def loop(p, g, state, start, stop, shift, decay, scalars, extra):
        memory = work(p)
        for a in range(start, stop, CODE_BLOCK):
            b = min(a + CODE_BLOCK, stop)
            at, to = a - shift, b - shift
            values = block_views(memory, b - a)
            decode(state, a, values)
            block_state = values + other_arrays(state, a, b, at, to)
            update_block(p[at:to], g[at:to], block_state, 0, b - a, 0, decay, scalars, extra)
            encode(state, a, values, extra)

    return loop


def _block_views(states: int) -> Callable[..., Any]:
    """Make the function that views the working memory as one block for each state."""
    view = f"memory[{{k}} * {CODE_BLOCK} : {{k}} * {CODE_BLOCK} + size], "
    return inner(from_text("views(memory, size)", f"return ({repeated(view, states)})"))


def _other_arrays(spec: StepSpec) -> Callable[..., Any]:
    """Make the function that views a block of the arrays after codes and scales: the average and the copy."""
    first = 2 * len(spec.rule.states)
    average, copy = f"state[{first}][a:b], " * spec.ema, f"state[{first + spec.ema}][at:to], " * bool(spec.copy)
    return inner(from_text("rest(state, a, b, at, to)", f"return ({average}{copy})"))


def _decoding(rule: Rule) -> Callable[..., None]:
    """Make the function that decodes the block from element `a` on, of each state."""
    states, codecs = len(rule.states), _codecs_of(rule)
    names = {f"decode{k}": codec.decode for k, codec in enumerate(codecs)}
    lines = [f"decode{k}(state[{k}], state[{states + k}][a // {CODE_BLOCK}], a, values[{k}])" for k in range(states)]
    return inner(from_text("decode(state, a, values)", *lines, "pass", **names))


def _encoding(rule: Rule) -> Callable[..., None]:
    """Make the function that encodes the block from element `a` on, of each state."""
    states, codecs = len(rule.states), _codecs_of(rule)
    names: dict[str, Any] = {f"encode{k}": codec.encode for k, codec in enumerate(codecs)} | {"SEED": SEED}
    lines = [f"encode{k}(state[{k}], state[{states + k}], a, values[{k}], extra[SEED][{k}])" for k in range(states)]
    return inner(from_text("encode(state, a, values, extra)", *lines, "pass", **names))


class _Codec(NamedTuple):
    """Functions that decode and encode a block of a state."""

    decode: Callable[..., None]
    encode: Callable[..., None]


def _codecs_of(rule: Rule) -> list[_Codec]:
    return [_POSITIVE if name in rule.positive else _SIGNED for name in rule.states]


def _codec(value_of: Callable[..., Any], code_of: Callable[..., Any]) -> _Codec:
    value_of, code_of = formula(value_of), formula(code_of)

    @inner
    def decode(codes, scale, a, values):
        for j in range(np.uint64(values.size)):
            values[j] = value_of(codes[np.uint64(a) + j], scale)

    @inner
    def encode(codes, scales, a, values, seed):
        scale = _block_scale(_largest(values))
        scales[a // CODE_BLOCK] = scale
        inverse, first = np.float32(1) / scale, _dither(a, seed)
        for j in range(np.uint64(values.size)):  # the dither of j instead of a + j: an index then takes 32 bits, not 64
            codes[np.uint64(a) + j] = code_of(values[j], inverse, _dither(j, first))

    return _Codec(decode, encode)


_SIGNED = _codec(storage.signed_value, storage.signed_code)
_POSITIVE = _codec(storage.positive_value, storage.positive_code)
