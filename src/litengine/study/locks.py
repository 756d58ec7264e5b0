"""File locks that end with the process that holds them, even if it is killed."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def take(path: Path) -> int | None:
    """Locks a file; makes the file and its folder if needed.

    Returns:
        The file descriptor, or None if another process has the lock. The lock lasts until the descriptor is closed here
        and in every process that inherited it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform == "win32":  # has no such locks: one study at a time is up to the user
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
