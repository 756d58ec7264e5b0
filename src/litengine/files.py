"""Files that are written completely or not at all, links, and paths as a user would type them."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file through a temporary one, flushed to disk and then renamed, so that no reader sees half of it.

    Missing folders are made. Text is UTF-8; file names in it that are not UTF-8 keep their bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link(target: Path, name: str | Path) -> bool:
    """Makes `name` a symbolic link to `target` in one step. Returns False if it cannot: a real file of that name is
    left alone, and the folder may be read-only."""
    name = Path(name)
    if name.exists() and not name.is_symlink():
        return False
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, name.absolute().parent))
        temporary.replace(name)
    except OSError:
        return False
    return True


def relative(path: str | Path) -> str:
    """The path relative to the working directory, or as it is if it lies outside."""
    shorter = os.path.relpath(path)
    return str(path) if shorter.startswith("..") else shorter
