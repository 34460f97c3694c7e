"""The disk cache of compiled kernels: one self-checking file per kernel and signature.

For each function, Numba's own cache checks only the file that defines it. After an edit of a rule, a kernel that
inlines the rule from another file is then loaded stale. Here the key of an entry contains a digest of *every* module of
the package, so that an entry is found only by the exact code, versions, settings and CPU that made it. A process whose
sources have been edited since it imported them reads and writes no entry, since it may run the old ones. Entries are
written atomically and carry a checksum; an entry that cannot be read, for any reason, is compiled again.

There are two places for entries: that of the user, which every process fills, and one inside the installed package,
which `python -m fastadam warmup --into-package` fills. Entries are pickles, and loading one runs code: a place is used
only if nobody but the user and root may write there.

The sections: the code that this process runs; the places; the warning when nothing can be kept; and, at the end, what
Numba calls.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import pickle
import pkgutil
import secrets
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

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

from fastadam._files import replacing
from fastadam.cpu.target import TARGET

_PACKAGE = __name__.partition(".")[0]

_STALE_AFTER_SECONDS = 30 * 24 * 3600
"""Time after which the entries of a version that no process has used are deleted."""

_DIGEST_LENGTH = 32
"""Hexadecimal digits of a digest in the name of a folder or file: 128 bits, so that no two are equal by chance."""

_CHECKSUM_BYTES = hashlib.sha256().digest_size

_NO_DIGEST = "the source code of fastadam cannot be read from this installation, so its versions cannot be told apart"

_REMEDY = (
    "Set NUMBA_CACHE_DIR to a folder that you may write and others may not; one that does not exist yet is created so"
)

_NO_EFFECT_ON_CODE = {
    "ALWAYS_WARN_UNINIT_VAR", "CACHE_DIR", "CACHE_LOCATOR_CLASSES", "CHROME_TRACE", "COLOR_SCHEME", "DEBUG_CACHE",
    "DEVELOPER_MODE", "DISABLE_CUDA", "DISABLE_PERFORMANCE_WARNINGS", "DISABLE_TYPEINFER_FAIL_CACHE", "ENABLE_CUDASIM",
    "FORCE_CUDA_CC", "FUNCTION_CACHE_SIZE", "GDB_BINARY", "HIGHLIGHT_DUMPS", "LLVM_PASS_TIMINGS",
    "NUMBA_DEFAULT_NUM_THREADS", "NUMBA_NUM_THREADS", "RUNNING_UNDER_PROFILER", "SHOW_HELP", "THREADING_LAYER",
    "THREADING_LAYER_PRIORITY",
}  # fmt: skip
"""Settings of Numba in which processes may differ and still share their kernels. All others are part of the key, even
those that a later version of Numba adds."""


def _number_functions_apart() -> None:
    """Give the functions that this process compiles symbols that no other process uses.

    The symbols of functions that one factory makes differ only by a number, which Numba counts from 1 in each process.
    If a third process loaded kernels of two others, the linker would take a function of one for that of the other.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))  # leaves room to count in 63 bits


_number_functions_apart()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)

# --- the code that this process runs ----------------------------------------------------------------------------------


def module_specs() -> list[ModuleSpec]:
    """Find the specs of the package and of all modules in it, however deep, without importing them."""
    found: list[ModuleSpec] = []
    pending = [sys.modules[_PACKAGE].__spec__]
    while pending:
        spec = pending.pop()
        if spec is None:  # listed but missing: the lock file of an editor, or a file that was just removed
            continue
        found.append(spec)
        if places := list(spec.submodule_search_locations or ()):
            for module in pkgutil.iter_modules(places, f"{spec.name}."):
                pending.append(module.module_finder.find_spec(module.name))  # type: ignore[call-arg]
    return sorted(found, key=lambda spec: spec.name)


def source_digest() -> str | None:
    """Compute a digest of the code of the package, as it is now, and of every version that shapes machine code.

    The code comes from the loader and not from the file system, since a package may be in a zip file or frozen into a
    program. The version of the package is in the code of its `__init__`. None if the loader does not return all code.
    """
    digest = hashlib.sha256()
    versions = (sys.version, str(sys.flags.optimize), numba.__version__, llvmlite.__version__, np.__version__)
    for version in versions:
        digest.update(version.encode())
    try:
        specs = module_specs()
        if __name__ not in {spec.name for spec in specs}:  # a loader that cannot list the modules of the package
            return None
        for spec in specs:
            digest.update(f"\0{spec.name}\0".encode())
            digest.update(_code_of(spec))
    except Exception:  # loaders of all kinds raise errors of all kinds
        return None
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _code_of(spec: ModuleSpec) -> bytes:
    """Return the source of a module or, if there is none, all that its code objects contain except names of files."""
    loader: Any = spec.loader
    source = loader.get_source(spec.name)
    if source is not None:
        return str(source).encode()
    code = loader.get_code(spec.name)
    if code is None:
        raise ImportError(f"{spec.name} has neither source nor code")
    return repr(_described(code)).encode()


def _described(constant: Any) -> Any:
    """Convert a constant of a code object to an object whose repr is the same in every process."""
    if isinstance(constant, CodeType):
        counts = (constant.co_argcount, constant.co_posonlyargcount, constant.co_kwonlyargcount, constant.co_flags)
        names = (constant.co_name, constant.co_names, constant.co_varnames, constant.co_cellvars, constant.co_freevars)
        handlers = getattr(constant, "co_exceptiontable", b"")
        return counts, names, constant.co_code, handlers, _described(constant.co_consts)
    if isinstance(constant, tuple):
        return tuple(map(_described, constant))
    if isinstance(constant, frozenset):  # its order differs from process to process
        return "frozenset", sorted(repr(_described(element)) for element in constant)
    return type(constant).__name__, repr(constant)


def _paths() -> list[str]:
    """List files and folders, not all of which need to exist: the code changes only if one of them does."""
    paths: list[str | None] = []
    with contextlib.suppress(Exception):  # as when there is no digest
        for spec in module_specs():
            archive = getattr(spec.loader, "archive", None)  # of a module in a zip file
            paths += [spec.origin, archive, *(spec.submodule_search_locations or ())]
    return sorted(set(filter(None, paths)))


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class _Sources:
    """The code of the package as this process imported it."""

    def __init__(self) -> None:
        self._paths = _paths()
        self._stamps = self._now()  # before the digest, so that an edit in between is noticed
        self.digest = source_digest()

    def are_as_imported(self) -> bool:
        """Check that the code is still what was imported; it is read again only if a file has changed."""
        now = self._now()
        if now == self._stamps:
            return True
        if source_digest() != self.digest:
            return False
        self._stamps = now  # only touched
        return True

    def _now(self) -> list[tuple[int, ...] | None]:
        return [_stamp(path) for path in self._paths]


_SOURCES = _Sources()

# --- places -----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A place for entries."""

    folders: tuple[Path, ...]
    """The folder of this version's entries, which comes last, and the folders around it that belong to the cache."""
    missing: str = ""
    """Reason why there is no folder, if there is none."""

    @property
    def folder(self) -> Path | None:
        """Folder of this version's entries, or None."""
        return self.folders[-1] if self.folders else None

    def refusal(self) -> str | None:
        """Reason why no entry is loaded from here, though there may be some: others may write here."""
        for folder in self.folders:
            try:
                status = folder.stat()
            except OSError:  # missing, or unreadable
                return None
            if danger := _danger(status):
                return f"{folder} is not used, since it {danger}"
        return None

    def read(self, name: str) -> bytes | None:
        """Read an entry; None if there is none, or none that can be trusted."""
        if self.folder is None or self.refusal():
            return None
        _mark_as_used(self.folder)
        with contextlib.suppress(OSError), open(self.folder / name, "rb") as file:
            return None if _danger(os.fstat(file.fileno())) else file.read()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keep an entry, or raise an OSError that says why it cannot be kept."""
        with replacing(self._made() / name, mode=0o644) as file:
            file.write(content)

    def obstacle(self) -> str | None:
        """Reason why nothing can be kept here, or None; finding out writes nothing."""
        if self.folder is None:
            return self.missing
        nearest = next(path for path in (self.folder, *self.folder.parents) if os.path.exists(path))
        if not nearest.is_dir():
            return f"{nearest} is not a folder"
        return self.refusal() or (None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written")

    def _made(self) -> Path:
        """Make the folder of entries if necessary, writeable only by its owner for any umask."""
        if self.folder is None:
            raise FileNotFoundError(self.missing)
        self.folders[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in self.folders:
            folder.mkdir(mode=0o755, exist_ok=True)
            if refusal := self.refusal():
                raise PermissionError(refusal)
        return self.folder


def _danger(status: os.stat_result) -> str | None:
    """Reason why somebody other than the user and root may write a file or folder, or None."""
    if not hasattr(os, "geteuid"):  # Windows protects the folders of a user by other means
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (number {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others ({stat.filemode(status.st_mode)})"
    return None


def user_place() -> Place:
    """Place that processes fill: in `NUMBA_CACHE_DIR` if it is set, otherwise in the cache folder of the user."""
    if _SOURCES.digest is None:
        return Place((), _NO_DIGEST)
    root = _user_root(config.CACHE_DIR)
    if root is None:
        return Place((), "the user has no home folder")
    return Place((root, root / _PACKAGE, root / _PACKAGE / _SOURCES.digest))


@functools.cache  # so that a relative folder stays in the first working directory
def _user_root(cache_dir: str) -> Path | None:
    root = Path(cache_dir or AppDirs(appname=_PACKAGE, appauthor=False).user_cache_dir)
    if not (cache_dir or root.is_absolute()):  # a user without a home folder: do not use the working directory
        return None
    return root.absolute()


def package_place() -> Place:
    """Place inside the installed package, which `warmup --into-package` fills and every user reads."""
    if _SOURCES.digest is None:
        return Place((), _NO_DIGEST)
    root = Path(sys.modules[_PACKAGE].__path__[0]).absolute() / "_kernels"
    return Place((root, root / _SOURCES.digest))


_into_package = False


@contextlib.contextmanager
def kept_in_package() -> Iterator[Place]:
    """Read and keep entries only in the package, within this context."""
    global _into_package
    _into_package = True
    try:
        yield package_place()
    finally:
        _into_package = False


def _places() -> list[Place]:
    """List the places to read from, in order; the first is also the one to write to."""
    return [package_place()] if _into_package else [user_place(), package_place()]


@functools.cache
def _mark_as_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only folder
        os.utime(folder)
        _remove_stale_siblings(folder)


def _remove_stale_siblings(directory: Path) -> None:
    """Delete the entries of versions that no process has used for a month."""
    for other in directory.parent.iterdir():
        if other != directory and time.time() - other.stat().st_mtime > _STALE_AFTER_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


# --- when nothing can be kept -----------------------------------------------------------------------------------------

_not_kept: str | None = None


def not_kept() -> str | None:
    """Reason why this process could not keep a kernel that it compiled, or None."""
    return _not_kept


def _say_once(reason: str) -> None:
    """Warn, for the first reason only, that every process compiles its kernels again."""
    global _not_kept
    if _not_kept is None:
        _not_kept = reason
        message = f"Compiled kernels are not cached, and every process compiles them again: {reason}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


on_compiling: list[Callable[[], None]] = [lambda: logging.getLogger("fastadam").info("Compiling kernels.")]
"""Functions that are called once, when this process compiles the first kernel that is not in the cache."""


# --- what Numba calls -------------------------------------------------------------------------------------------------


def _tell_of_compiling() -> None:
    while on_compiling:
        on_compiling.pop()()


class KernelCache(_Cache):  # type: ignore[misc]
    """Keeps the compiled overloads of one function; `name` tells apart functions made by one factory."""

    def __init__(self, py_func: Callable[..., Any], name: str) -> None:
        self._py_func = py_func
        self._name = name
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """Folder in which entries are kept, or None."""
        folder = _places()[0].folder
        return None if folder is None else str(folder)

    def enable(self) -> None:
        """Use the cache."""
        self._enabled = True

    def disable(self) -> None:
        """Neither read nor keep entries."""
        self._enabled = False

    def flush(self) -> None:
        """Delete the entries of this function."""
        folder = _places()[0].folder
        for entry in folder.glob(f"{self._name}-*.bin") if folder else ():
            entry.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Load the code for a signature; None if it is to be compiled."""
        found = self._load(sig, target_context)
        if found is None:
            _tell_of_compiling()
        return found

    def _load(self, sig: Any, target_context: Any) -> CompileResult | None:
        # Numba's preparation for compiling takes a tenth of a second; loading needs only this part of it.
        rtsys.initialize(target_context)
        if not self._usable():
            return None
        name = self._entry(sig, target_context.codegen())
        for place in _places():
            if content := place.read(name):
                with contextlib.suppress(
                    Exception
                ):  # an entry that cannot be loaded, for any reason, is compiled again
                    return CompileResult._rebuild(target_context, *pickle.loads(_checked(content)))
        return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        """Keep the code for a signature."""
        if self._enabled and _SOURCES.digest is None:
            _say_once(_NO_DIGEST)
        if not self._usable() or not _cachable(data):
            return
        payload = dumps(data._reduce())
        place, *others = _places()
        try:
            place.write(self._entry(sig, data.codegen), hashlib.sha256(payload).digest() + payload)
        except OSError as error:  # without a disk to write to, only the cache is lost
            reasons = [str(error), *filter(None, (other.refusal() for other in others))]
            _say_once(f"{'; '.join(reasons)}. {_REMEDY}")

    def _usable(self) -> bool:
        return self._enabled and _SOURCES.digest is not None and _SOURCES.are_as_imported()

    def _entry(self, sig: Any, codegen: Any) -> str:
        """Name of the file, from all that the machine code depends on besides the code of the package and versions."""
        key = repr((self._py_func.__module__, self._name, str(sig), codegen.magic_tuple(), TARGET, _settings()))
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_LENGTH]}.bin"


def _settings() -> list[tuple[str, str]]:
    """List the current settings of Numba that may affect code: `numba.config` can change at any time."""
    names = (name for name in vars(config) if name.isupper() and not name.startswith(("CUDA", "_")))
    return [(name, repr(getattr(config, name))) for name in sorted(names) if name not in _NO_EFFECT_ON_CODE]


def _checked(content: bytes) -> bytes:
    checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if hashlib.sha256(payload).digest() != checksum:
        raise ValueError("the checksum of the entry is wrong")
    return payload


def _cachable(data: CompileResult) -> bool:
    return not data.lifted and not data.library.has_dynamic_globals


__all__ = [
    "KernelCache", "Place", "kept_in_package", "not_kept", "on_compiling", "package_place", "source_digest",
    "user_place",
]  # fmt: skip
