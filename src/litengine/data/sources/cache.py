"""Write a directory of arrays once, whatever happens meanwhile; memory-map them afterwards."""

import json
import mmap
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

SIZES = "sizes.json"


def build_once(cache_dir: Path, slot: str, key: str, write: Callable[[Path], None]) -> Path:
    """The directory `cache_dir/<slot>-<key>`, filled by `write(directory)` where it is not yet there and whole.

    It is written under another name, flushed to disk and then renamed, under a lock: of several processes one
    writes and the others wait, and a kill or a power cut at any moment leaves nothing that a later run takes for
    whole. Older keys of the same slot are removed. Whatever `write` raises leaves the cache as it was.
    """
    final = cache_dir / f"{slot}-{key}"
    if is_whole(final):
        return final
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{slot}.lock"):
        if is_whole(final):
            return final
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed: we hold the lock
        try:
            partial.mkdir()
            write(partial)
            _seal(partial)
            shutil.rmtree(final, ignore_errors=True)  # there, but not whole
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in cache_dir.iterdir():
            if old.name.startswith(f"{slot}-") and old != final:
                shutil.rmtree(old, ignore_errors=True)
    return final


def is_whole(directory: Path) -> bool:
    """Whether every file is there with the size it had when it was written."""
    try:
        sizes: dict[str, int] = json.loads((directory / SIZES).read_text())
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _seal(directory: Path) -> None:
    sizes = {}
    for path in sorted(directory.iterdir()):
        with path.open("r+b") as file:
            os.fsync(file.fileno())  # else a power cut after the rename leaves zeros of the right size
        sizes[path.name] = path.stat().st_size
    with (directory / SIZES).open("w") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())


def map_array(path: Path) -> Tensor:
    """The uint8 .npy at `path` as a tensor that stays on disk: pages are read as they are touched. Writing into the
    tensor changes memory only, never the file."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        assert dtype == np.uint8, f"{path} holds {dtype}"
        offset = file.tell()
        if sys.platform == "linux":
            # A private mapping counts in full against memory (100 GB on a laptop: ENOMEM) unless it says NORESERVE.
            # Python names that flag since 3.13 only; 0x4000 is its value on x86-64 and ARM.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
            memory = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        else:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(memory, dtype=torch.uint8, offset=offset).view(shape)


def drop_rows(path: Path, rows: list[int]) -> None:
    """Remove `rows`, ascending, from the .npy at `path`, a stretch at a time: the array is never in memory whole."""
    old = np.load(path, mmap_mode="r")
    shorter = path.with_name(path.name + ".shorter")
    new = np.lib.format.open_memmap(shorter, mode="w+", dtype=old.dtype, shape=(len(old) - len(rows), *old.shape[1:]))
    written = start = 0
    for stop in [*rows, len(old)]:
        new[written : written + stop - start] = old[start:stop]
        written, start = written + stop - start, stop + 1
    new.flush()
    shorter.replace(path)
