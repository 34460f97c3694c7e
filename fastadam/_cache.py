"""The disk cache of compiled kernels: one self-checking file per kernel and signature.

Numba's own cache looks, for each function, at the file that defines it. A kernel that inlines a rule from another file
is then loaded stale after that rule is edited. Here the key of an entry holds a digest of *every* source file of the
package, so an entry can only be found by the exact sources, versions and CPU that made it. A process whose sources were
edited after it had imported them reads and writes no entry: it may run the old ones. Entries are written atomically
and carry a checksum; whatever cannot be read, for any reason, is compiled again.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import pickle
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

_STALE_AFTER_SECONDS = 30 * 24 * 3600


def _number_functions_apart() -> None:
    """Give what this process compiles symbols that no other process gives.

    Functions that one factory makes differ in their symbols by a number alone, which Numba counts from 1 in each
    process. Where kernels of two processes meet in a third, the linker would take one function for another's.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


_number_functions_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)


def source_digest() -> str:
    """Digest of the package's sources, as they are now, and of every version that shapes machine code."""
    digest = hashlib.sha256()
    for version in (sys.version, numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(version.encode())
    package = Path(__file__).parent
    for source in sorted(package.rglob("*.py")):
        digest.update(str(source.relative_to(package)).encode())
        with contextlib.suppress(OSError):  # an editor's lock, or a file that was just removed
            digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


_IMPORTED_DIGEST = source_digest()


@functools.cache
def cache_directory() -> Path | None:
    """The folder of this version's entries, or None where no folder can be written.

    `NUMBA_CACHE_DIR` is honoured; otherwise it is `fastadam` in the user's cache folder.
    """
    root = Path(config.CACHE_DIR or AppDirs(appname="fastadam", appauthor=False).user_cache_dir)
    if not (config.CACHE_DIR or root.is_absolute()):  # a user without a home; not in the working directory then
        return None
    directory = root / "fastadam" / _IMPORTED_DIGEST
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        os.utime(directory)
        _remove_stale_siblings(directory)
    except OSError:
        return None
    return directory


def _remove_stale_siblings(directory: Path) -> None:
    """Delete the entries of versions that nobody has started for a month."""
    for other in directory.parent.iterdir():
        if other != directory and time.time() - other.stat().st_mtime > _STALE_AFTER_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


on_compiling: list[Callable[[], None]] = [lambda: logging.getLogger("fastadam").info("Compiling kernels.")]
"""Each of these is called, and taken off the list, when a kernel is to be compiled that no entry holds."""


def _tell_of_compiling() -> None:
    while on_compiling:
        on_compiling.pop()()


class KernelCache(_Cache):  # type: ignore[misc]
    """Stores the compiled overloads of one function; `name` tells apart functions made by one factory."""

    def __init__(self, py_func: Callable[..., Any], name: str) -> None:
        self._py_func = py_func
        self._name = name
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        directory = cache_directory()
        return None if directory is None else str(directory)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        directory = cache_directory()
        for entry in directory.glob(f"{self._name}-*.bin") if directory else ():
            entry.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        found = self._load(sig, target_context)
        if found is None:
            _tell_of_compiling()
        return found

    def _load(self, sig: Any, target_context: Any) -> CompileResult | None:
        # Of all that Numba gets ready to compile, which takes a tenth of a second, loading needs this alone.
        rtsys.initialize(target_context)
        path = self._entry(sig, target_context.codegen())
        if path is None:
            return None
        try:
            checksum, payload = _split_checksum(path.read_bytes())
            if hashlib.sha256(payload).digest() != checksum:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # an unreadable entry, whatever the reason, is one to compile again
            return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        path = self._entry(sig, data.codegen)
        if path is None or not _cachable(data):
            return
        payload = dumps(data._reduce())
        try:
            _write_atomically(path, hashlib.sha256(payload).digest() + payload)
        except OSError:  # a full or vanished disk costs the cache, not the computation
            return

    def _entry(self, sig: Any, codegen: Any) -> Path | None:
        directory = cache_directory() if self._enabled and source_digest() == _IMPORTED_DIGEST else None
        if directory is None:
            return None
        settings = (config.BOUNDSCHECK, config.LOOP_VECTORIZE, config.SLP_VECTORIZE)
        key = repr((self._py_func.__module__, self._name, str(sig), codegen.magic_tuple(), settings))
        return directory / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"


def _split_checksum(content: bytes) -> tuple[bytes, bytes]:
    return content[:32], content[32:]


def _cachable(data: CompileResult) -> bool:
    return not data.lifted and not data.library.has_dynamic_globals


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


__all__ = ["KernelCache", "cache_directory", "on_compiling", "source_digest"]
