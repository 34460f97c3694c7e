"""Atomic replacement of files: a file is complete or absent."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a new file for writing that replaces `path` when the block ends, and is removed if the block raises.

    At any time, `path` is either the complete old file or the complete new one. The new file is created in the same
    folder, and never by opening a file that already exists, such as a link that another user has placed there.

    Parameters
    ----------
    path : Path
        File to replace or create; its folder must exist.
    sync : bool, default=False
        Whether to write the content to the disk before the file is renamed, so that it survives a power failure.
    mode : int, default=0o666
        Permissions of the file, before the umask of the process is applied.

    Yields
    ------
    binary file
        The new file, open for writing.

    Raises
    ------
    OSError
        If the file cannot be created, written or renamed.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(new, _NEW_FILE, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
