"""The names of many files, left on the disk: a list of a million takes a hundred megabytes of memory."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


def write_names(names: Iterable[str], path: Path) -> None:
    """Writes them to `path`, one after the other, and where each ends beside it."""
    ends = array("q", [0])
    with path.open("wb") as file:
        for name in names:
            ends.append(ends[-1] + file.write(name.encode("utf-8", "surrogateescape")))
    np.save(_ends(path), np.frombuffer(ends, dtype=np.int64))


class Names(Sequence[str]):
    """What `write_names` wrote, each read when it is asked for.

    Args:
        path: the file.
        folder: put in front of every name.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.folder = folder
        self._ends = np.load(_ends(path), mmap_mode="r")
        self._text = np.memmap(path, np.uint8, "r") if self._ends[-1] else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        name = bytes(self._text[self._ends[number] : self._ends[number + 1]]).decode("utf-8", "surrogateescape")
        return str(self.folder / name)


def _ends(path: Path) -> Path:
    return path.with_name(f"{path.name}.ends.npy")
