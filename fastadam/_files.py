"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a new file for writing, which takes the name `path` when the block ends, and is removed if the block raises.

    At every moment, `path` is either the file before, whole, or the new one, whole. The new file is made beside it and
    never opens one that exists already, such as a link that somebody else has put there.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    sync : bool, default=False
        Whether the content must be on the disk before the file takes its name, to survive a power failure.
    mode : int, default=0o666
        Permissions of the file, from which the process's umask is taken.

    Yields
    ------
    binary file
        Open for writing.

    Raises
    ------
    OSError
        If the file cannot be made, written or renamed.
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
