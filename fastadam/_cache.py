"""The disk cache of compiled kernels: one self-checking file per kernel and signature.

Numba's own cache looks, for each function, at the file that defines it. A kernel that inlines a rule from another file
is then loaded stale after that rule is edited. Here the key of an entry holds a digest of *every* module of the
package, so an entry can only be found by the exact code, versions, settings and CPU that made it. A process whose
sources were edited after it had imported them reads and writes no entry: it may run the old ones. Entries are written
atomically and carry a checksum; whatever cannot be read, for any reason, is compiled again.

Entries are looked for in two places: the user's, which every process fills, and one inside the installed package, which
`python -m fastadam warmup --into-package` fills. They are pickles, and loading one runs code: a place is used only if
nobody but the user and root may write there.
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
from fastadam._target import TARGET

_PACKAGE = __name__.partition(".")[0]
_STALE_AFTER_SECONDS = 30 * 24 * 3600
_NO_DIGEST = "the code of fastadam's modules cannot be read as it is installed here, to tell its versions apart"
_REMEDY = (
    "Set NUMBA_CACHE_DIR to a folder that you may write and others may not; one that does not exist yet is made so"
)
_NO_EFFECT_ON_CODE = {
    "ALWAYS_WARN_UNINIT_VAR", "CACHE_DIR", "CACHE_LOCATOR_CLASSES", "CHROME_TRACE", "COLOR_SCHEME", "DEBUG_CACHE",
    "DEVELOPER_MODE", "DISABLE_CUDA", "DISABLE_PERFORMANCE_WARNINGS", "DISABLE_TYPEINFER_FAIL_CACHE", "ENABLE_CUDASIM",
    "FORCE_CUDA_CC", "FUNCTION_CACHE_SIZE", "GDB_BINARY", "HIGHLIGHT_DUMPS", "LLVM_PASS_TIMINGS",
    "NUMBA_DEFAULT_NUM_THREADS", "NUMBA_NUM_THREADS", "RUNNING_UNDER_PROFILER", "SHOW_HELP", "THREADING_LAYER",
    "THREADING_LAYER_PRIORITY",
}  # fmt: skip
"""Settings of Numba that differ between processes which may share their kernels. Every other one is in the key, also
one that a later version of Numba adds."""


def _number_functions_apart() -> None:
    """Give what this process compiles symbols that no other process gives.

    Functions that one factory makes differ in their symbols by a number alone, which Numba counts from 1 in each
    process. Where kernels of two processes meet in a third, the linker would take one function for another's.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


_number_functions_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)


# --- which code this is -----------------------------------------------------------------------------------------------


def module_specs() -> list[ModuleSpec]:
    """Specs of the package and of all modules in it, however deep; none of them is imported for that."""
    found: list[ModuleSpec] = []
    pending = [sys.modules[_PACKAGE].__spec__]
    while pending:
        spec = pending.pop()
        if spec is None:  # listed, but not there: an editor's lock, or a file that was just removed
            continue
        found.append(spec)
        if places := list(spec.submodule_search_locations or ()):
            for module in pkgutil.iter_modules(places, f"{spec.name}."):
                pending.append(module.module_finder.find_spec(module.name))  # type: ignore[call-arg]
    return sorted(found, key=lambda spec: spec.name)


def source_digest() -> str | None:
    """Digest of the package's code, as its loader gives it now, and of every version that shapes machine code.

    The loader is asked, and not the file system: a package may lie in a zip file, or be frozen into a program. The
    package's own version is in the code of its `__init__`. None where the loader does not give all of the code.
    """
    digest = hashlib.sha256()
    versions = (sys.version, str(sys.flags.optimize), numba.__version__, llvmlite.__version__, np.__version__)
    for version in versions:
        digest.update(version.encode())
    try:
        specs = module_specs()
        if __name__ not in {spec.name for spec in specs}:  # a loader that cannot list the package's modules
            return None
        for spec in specs:
            digest.update(f"\0{spec.name}\0".encode())
            digest.update(_code_of(spec))
    except Exception:  # loaders of all kinds raise errors of all kinds
        return None
    return digest.hexdigest()[:32]


def _code_of(spec: ModuleSpec) -> bytes:
    """Source of a module; where there is none, all that its code objects hold but the names of files."""
    loader: Any = spec.loader
    source = loader.get_source(spec.name)
    if source is not None:
        return str(source).encode()
    code = loader.get_code(spec.name)
    if code is None:
        raise ImportError(f"{spec.name} has neither source nor code")
    return repr(_described(code)).encode()


def _described(constant: Any) -> Any:
    """A constant of a code object as something whose repr is the same in every process."""
    if isinstance(constant, CodeType):
        counts = (constant.co_argcount, constant.co_posonlyargcount, constant.co_kwonlyargcount, constant.co_flags)
        names = (constant.co_name, constant.co_names, constant.co_varnames, constant.co_cellvars, constant.co_freevars)
        handlers = getattr(constant, "co_exceptiontable", b"")
        return counts, names, constant.co_code, handlers, _described(constant.co_consts)
    if isinstance(constant, tuple):
        return tuple(map(_described, constant))
    if isinstance(constant, frozenset):  # whose order differs from process to process
        return "frozenset", sorted(repr(_described(element)) for element in constant)
    return type(constant).__name__, repr(constant)


def _paths() -> list[str]:
    """Files and folders, some of which need not exist: while all are as they were, so is the package's code."""
    paths: list[str | None] = []
    with contextlib.suppress(Exception):  # as where there is no digest
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
    """The package's code as this process imported it."""

    def __init__(self) -> None:
        self._paths = _paths()
        self._stamps = self._now()  # before the digest, so that an edit between the two is noticed
        self.digest = source_digest()

    def are_as_imported(self) -> bool:
        """Whether the code is still that which was imported; it is read again only where a file changed."""
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


# --- where entries are kept -------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A folder of entries, after the folders around it that are the cache's own."""

    folders: tuple[Path, ...]
    missing: str = ""
    """Why there is no folder, if there is none."""

    @property
    def folder(self) -> Path | None:
        """The folder of this version's entries."""
        return self.folders[-1] if self.folders else None

    def refusal(self) -> str | None:
        """Why nothing is loaded from here, though there is something: others may write it."""
        for folder in self.folders:
            try:
                status = folder.stat()
            except OSError:  # not there, or not to be read
                return None
            if danger := _danger(status):
                return f"{folder} is not used, since it {danger}"
        return None

    def read(self, name: str) -> bytes | None:
        """Content of an entry; None where there is none, or none to trust."""
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
        """Why nothing can be kept here; nothing is written to find out."""
        if self.folder is None:
            return self.missing
        nearest = next(path for path in (self.folder, *self.folder.parents) if os.path.exists(path))
        if not nearest.is_dir():
            return f"{nearest} is not a folder"
        return self.refusal() or (None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written")

    def _made(self) -> Path:
        """The folder of entries, made if need be: to be written by its owner only, whatever the umask."""
        if self.folder is None:
            raise FileNotFoundError(self.missing)
        self.folders[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in self.folders:
            folder.mkdir(mode=0o755, exist_ok=True)
            if refusal := self.refusal():
                raise PermissionError(refusal)
        return self.folder


def _danger(status: os.stat_result) -> str | None:
    """What lets somebody else than the user and root write a file or folder."""
    if not hasattr(os, "geteuid"):  # Windows keeps others out of the user's folders by other means
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (number {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others ({stat.filemode(status.st_mode)})"
    return None


def user_place() -> Place:
    """The place that processes fill: in `NUMBA_CACHE_DIR` where that is set, else in the user's cache folder."""
    if _SOURCES.digest is None:
        return Place((), _NO_DIGEST)
    root = _user_root(config.CACHE_DIR)
    if root is None:
        return Place((), "the user has no home folder")
    return Place((root, root / _PACKAGE, root / _PACKAGE / _SOURCES.digest))


@functools.cache  # a relative folder is that of the working directory at first
def _user_root(cache_dir: str) -> Path | None:
    root = Path(cache_dir or AppDirs(appname=_PACKAGE, appauthor=False).user_cache_dir)
    if not (cache_dir or root.is_absolute()):  # a user without a home; not in the working directory then
        return None
    return root.absolute()


def package_place() -> Place:
    """The place inside the installed package, that `warmup --into-package` fills and every user reads."""
    if _SOURCES.digest is None:
        return Place((), _NO_DIGEST)
    root = Path(sys.modules[_PACKAGE].__path__[0]).absolute() / "_kernels"
    return Place((root, root / _SOURCES.digest))


_into_package = False


@contextlib.contextmanager
def kept_in_package() -> Iterator[Place]:
    """Within it, entries are looked for and kept in the package only."""
    global _into_package
    _into_package = True
    try:
        yield package_place()
    finally:
        _into_package = False


def _places() -> list[Place]:
    """Where to look, in this order; the first is also where to write."""
    return [package_place()] if _into_package else [user_place(), package_place()]


@functools.cache
def _mark_as_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that can only be read
        os.utime(folder)
        _remove_stale_siblings(folder)


def _remove_stale_siblings(directory: Path) -> None:
    """Delete the entries of versions that nobody has started for a month."""
    for other in directory.parent.iterdir():
        if other != directory and time.time() - other.stat().st_mtime > _STALE_AFTER_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


# --- what is not kept -------------------------------------------------------------------------------------------------

_not_kept: str | None = None


def not_kept() -> str | None:
    """Why this process could not keep a kernel that it compiled; None where it had no such trouble."""
    return _not_kept


def _say_once(reason: str) -> None:
    """Warn that every process compiles what the cache should spare it; the first reason is enough."""
    global _not_kept
    if _not_kept is None:
        _not_kept = reason
        message = f"Compiled kernels are not cached, and every process compiles them again: {reason}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


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
        folder = _places()[0].folder
        return None if folder is None else str(folder)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        folder = _places()[0].folder
        for entry in folder.glob(f"{self._name}-*.bin") if folder else ():
            entry.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        found = self._load(sig, target_context)
        if found is None:
            _tell_of_compiling()
        return found

    def _load(self, sig: Any, target_context: Any) -> CompileResult | None:
        # Of all that Numba gets ready to compile, which takes a tenth of a second, loading needs this alone.
        rtsys.initialize(target_context)
        if not self._usable():
            return None
        name = self._entry(sig, target_context.codegen())
        for place in _places():
            if content := place.read(name):
                with contextlib.suppress(Exception):  # whatever cannot be loaded, for any reason, is compiled again
                    return CompileResult._rebuild(target_context, *pickle.loads(_checked(content)))
        return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        if self._enabled and _SOURCES.digest is None:
            _say_once(_NO_DIGEST)
        if not self._usable() or not _cachable(data):
            return
        payload = dumps(data._reduce())
        place, *others = _places()
        try:
            place.write(self._entry(sig, data.codegen), hashlib.sha256(payload).digest() + payload)
        except OSError as error:  # a full, vanished or forbidden disk costs the cache, not the computation
            reasons = [str(error), *filter(None, (other.refusal() for other in others))]
            _say_once(f"{'; '.join(reasons)}. {_REMEDY}")

    def _usable(self) -> bool:
        return self._enabled and _SOURCES.digest is not None and _SOURCES.are_as_imported()

    def _entry(self, sig: Any, codegen: Any) -> str:
        """Name of the file: what the machine code depends on beside the code of the package and the versions."""
        key = repr((self._py_func.__module__, self._name, str(sig), codegen.magic_tuple(), TARGET, _settings()))
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"


def _settings() -> list[tuple[str, str]]:
    """Numba's settings that may change code, as they are now: `numba.config` can be written at any time."""
    names = (name for name in vars(config) if name.isupper() and not name.startswith(("CUDA", "_")))
    return [(name, repr(getattr(config, name))) for name in sorted(names) if name not in _NO_EFFECT_ON_CODE]


def _checked(content: bytes) -> bytes:
    checksum, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != checksum:
        raise ValueError("the entry is not what was written")
    return payload


def _cachable(data: CompileResult) -> bool:
    return not data.lifted and not data.library.has_dynamic_globals


__all__ = [
    "KernelCache", "Place", "kept_in_package", "not_kept", "on_compiling", "package_place", "source_digest",
    "user_place",
]  # fmt: skip
