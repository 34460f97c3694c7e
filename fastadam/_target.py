"""The processor that Numba compiles for, which need not be the one that it runs on.

`NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` can name another one. What the package's code depends on is therefore taken
from Numba's own code generator, once, and from nowhere else: code that a cache keeps for a target then fits the memory
that it is given, on every host.
"""

import re
from dataclasses import dataclass

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_WIDE_AT_FULL_CLOCK = ("znver4", "znver5")
"""Processors that compute with vectors of 64 bytes at the clock rate of narrower ones."""

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
    """Whether a fused multiply-add is an instruction: elsewhere it is a call of the C library for each number."""
    masked: bool
    """Whether one instruction loads or stores some lanes of a vector: elsewhere that is a branch for each lane."""
    halves: bool
    """Whether float16 is converted by an instruction: elsewhere by a function of the compiler's own library."""
    vector_bytes: int
    """Width of the vectors to compute with."""
    many_registers: bool
    """Whether there are 32 registers of that width, and not 16."""


def target_of(triple: str, name: str, features: str) -> Target:
    """Describe a processor, given as LLVM is: by its name, and by features that it has (+) or lacks (-) besides."""
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
    """Name those of the instruction sets in question that code for this target may use."""
    host = llvm.get_host_cpu_features()
    if features != host.flatten():
        return probed_instructions(triple, name, features)
    found = {feature for feature in ("avx", "avx2", "avx512f", "f16c", "fma") if host.get(feature)}
    return found | {"fma"} if host.get("fma4") else found


def probed_instructions(triple: str, name: str, features: str) -> set[str]:
    """Find them in code that is compiled for it, which takes some milliseconds.

    Only LLVM knows which features a name implies, or another feature.
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
"""What this process compiles for."""
