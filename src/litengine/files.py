"""Files that are written completely or not at all, links, paths as a user would type them, and text made harmless."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file through a temporary one, flushed to disk and then renamed, so that no reader sees half of it.

    Missing folders are made. Text is UTF-8; file names in it that are not UTF-8 keep their bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that a stranger put there
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


def check_can_write(path: Path) -> None:
    """Raises OSError if the file cannot be written: before the work for it begins."""
    if path.is_dir():
        raise OSError(f"cannot write {path}: it is a folder, name a file")
    if not path.parent.is_dir():
        raise OSError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"cannot write {path}: the folder {path.parent} is read-only")


def relative(path: str | Path) -> str:
    """The path relative to the working directory, or as it is if it lies outside."""
    shorter = os.path.relpath(path)
    return str(path) if shorter.startswith("..") else shorter


def visible(text: str) -> str:
    """Text of a stranger for a terminal or a file: control characters, terminal escapes, changes of the writing
    direction and bytes that are not UTF-8 are spelled out, as in `\\x1b`. Line breaks too."""
    return "".join(map(_visible, text))


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file: the names of the columns, and rows of a value for each, None for an empty one."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_csv_cell, row) for row in rows)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    """A value for a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return visible(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return f"'{visible(value)}"
    return value


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
