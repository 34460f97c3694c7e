"""Machine code of a kernel, made without a GPU: compiled, linked and disassembled by NVIDIA's tools."""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from cuda.bindings import nvjitlink
from numba.cuda import compiler, dispatcher, types

# Numba asks the current device for the architecture of device functions; the linker decides in the end.
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(8, 0))

ARCHITECTURES = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}


@dataclass
class MachineCode:
    """Resources and instructions of a kernel."""

    registers: int
    stack: int
    shared: int
    spills: int
    """Loads from and stores to local memory."""
    instructions: list[str] = field(repr=False)

    def count(self, pattern: str) -> int:
        """Count the instructions whose operation matches."""
        return sum(bool(re.fullmatch(pattern, instruction.split()[0])) for instruction in self.instructions)

    def operations(self) -> list[str]:
        """List the operations of the instructions."""
        return [instruction.split()[0] for instruction in self.instructions]


def compiled(kernel, arguments, architecture, *, fastmath=False, max_registers=None) -> MachineCode:
    """Compile a kernel for an architecture, from Python to machine code."""
    bounds = getattr(kernel, "targetoptions", {}).get("launch_bounds") if max_registers is None else None
    code = _ltoir(kernel, arguments, ARCHITECTURES[architecture], fastmath, bounds)
    cubin = linked(code, architecture, fastmath, max_registers)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        listing = _run("nvdisasm", "-c", file.name)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);", listing)
    spills = sum(instruction.startswith(("LDL", "STL")) for instruction in code)
    return MachineCode(found["REG"], found["STACK"], found["SHARED"], spills, code)


def _ltoir(kernel, arguments, capability, fastmath, bounds) -> bytes:
    function = getattr(kernel, "py_func", kernel)
    signature = types.void(*arguments)
    options = {"device": False, "abi": "numba", "cc": capability, "output": "ltoir", "fastmath": fastmath}
    return compiler.compile(function, signature, launch_bounds=bounds, **options)[0]


def linked(code: bytes, architecture: str, fastmath: bool, max_registers: int | None) -> bytes:
    """Link LTO-IR to a cubin."""
    options = ["-lto", f"-arch={architecture}"]
    if fastmath:
        options += ["-prec-div=0", "-prec-sqrt=0", "-ftz=1"]
    if max_registers is not None:
        options.append(f"-maxrregcount={max_registers}")
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.LTOIR, code, len(code), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin)


def _run(tool: str, *arguments: str) -> str:
    result = subprocess.run([_path(tool), *arguments], capture_output=True, text=True, timeout=120, check=True)
    return result.stdout


def _path(tool: str) -> str:
    """Find a tool of NVIDIA that pip installed, or that of a toolkit."""
    for folder in map(Path, sys.path):
        for found in folder.glob(f"nvidia/cu*/bin/{tool}"):
            return str(found)
    found = shutil.which(tool)
    assert found, f"{tool} is missing: pip install nvidia-cuda-{tool}"
    return found
