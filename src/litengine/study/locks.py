"""Who is at work on what: a lock on a file, which ends with the process that holds it, however that ends."""

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int | None:
    """Locks a file, made where it is missing, with its folder.

    Returns:
        Its descriptor, which holds the lock until it is closed here and in every process that inherited it; None where
        another process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    name_holder(descriptor, os.getpid())
    return descriptor


def name_holder(descriptor: int, process: int) -> None:
    """Notes which process has the lock, for those that meet it."""
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(process).encode(), 0)


def holder(path: Path) -> int | None:
    """The process that has a lock; None where it was not noted yet."""
    text = path.read_text()
    return int(text) if text.isdigit() else None
