"""The processor that Numba compiles for, which need not be the one that it runs on.

`NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` can name another processor. All properties that the code of the package
depends on therefore come from Numba's own code generator: cached code for a target then agrees with the sizes of the
memory that it is given, on every host.
"""

import re
from dataclasses import dataclass

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_WIDE_AT_FULL_CLOCK = ("znver4", "znver5")
"""Processors that compute with vectors of 64 bytes without lowering their clock rate."""

_PROBE = """
declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)

define <8 x float> @fused(<8 x float> %a, <8 x float> %b, <8 x float> %c) {
  %sum = call <8 x float> @llvm.fma.v8f32(<8 x float> %a, <8 x float> %b, <8 x float> %c)
  ret <8 x float> %sum
}

define <8 x i32> @added(<8 x i32> %a, <8 x i32> %b) {
  %sum = add <8 x i32> %a, %b
  ret <8 x i32> %sum
}

define <8 x float> @widened(<8 x half> %a) {
  %value = fpext <8 x half> %a to <8 x float>
  ret <8 x float> %value
}

define <16 x i32> @added_wide(<16 x i32> %a, <16 x i32> %b) {
  %sum = add <16 x i32> %a, %b
  ret <16 x i32> %sum
}
"""


@dataclass(frozen=True)
class Target:
    """A processor, as the code generator sees it."""

    name: str
    fused: bool
    """True if a fused multiply-add is an instruction, instead of a call of the C library for each number."""
    masked: bool
    """True if one instruction loads or stores some lanes of a vector, instead of a branch for each lane."""
    halves: bool
    """True if an instruction converts float16, instead of a function of the compiler's library."""
    vector_bytes: int
    """Width of the vectors to compute with."""
    many_registers: bool
    """True if there are 32 registers of that width instead of 16."""


def target_of(triple: str, name: str, features: str) -> Target:
    """Describe a processor, given in LLVM's terms: its name, and features that it has (+) or lacks (-) beyond these."""
    arm = triple.startswith(("aarch64", "arm"))
    if not re.match("x86_64|i.86", triple):
        return Target(name, fused=True, masked=False, halves=arm, vector_bytes=16, many_registers=arm)
    found = _instructions(triple, name, features)
    width = 32 if {"avx2", "fma"} <= found else 16
    if name in _WIDE_AT_FULL_CLOCK and "avx512f" in found:
        width = 64
    fused, masked, halves = (instruction in found for instruction in ("fma", "avx", "f16c"))
    return Target(name, fused, masked, halves, width, many_registers=width == 64)


def _instructions(triple: str, name: str, features: str) -> set[str]:
    """Find which of the relevant instruction sets code for this target may use."""
    host = llvm.get_host_cpu_features()
    if features != host.flatten():
        return probed_instructions(triple, name, features)
    found = {feature for feature in ("avx", "avx2", "avx512f", "f16c", "fma") if host.get(feature)}
    return found | {"fma"} if host.get("fma4") else found


def probed_instructions(triple: str, name: str, features: str) -> set[str]:
    """Find these instruction sets by compiling a probe, which takes a few milliseconds.

    Only LLVM knows which features follow from the name of a processor or from another feature.
    """
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    code = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    used = {
        "avx": "%ymm" in code,
        "avx2": re.search(r"vpaddd\s[^\n]*%ymm", code),
        "avx512f": "%zmm" in code,
        "f16c": "__extendhfsf2" not in code,
        "fma": "fmaf" not in code,
    }
    return {feature for feature, is_used in used.items() if is_used}


TARGET = target_of(*cpu_target.target_context.codegen().magic_tuple())
"""The target of this process."""
