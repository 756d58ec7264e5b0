"""Write a directory of arrays once, even with crashes and several processes; memory-map the arrays afterwards."""

import json
import mmap
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

CHECKSUMS = "checksums.json"
BLOCK = 2**24  # bytes read at once


def build_once(cache_dir: Path, slot: str, key: str, write: Callable[[Path, list[Path]], None]) -> Path:
    """The directory `cache_dir/<slot>-<key>`; `write(directory, earlier)` fills it if it is missing or damaged.

    It is written under another name, flushed to disk and renamed, under a lock: one of several processes writes and
    the others wait, and a crash at any moment leaves nothing that a later run takes for complete. `earlier` are the
    directories of the same slot, possibly damaged, which are removed afterwards. If `write` raises, the cache stays
    as it was.
    """
    final = cache_dir / f"{slot}-{key}"
    if is_intact(final):
        return final
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{slot}.lock"):
        if is_intact(final):
            return final
        partial = final.with_name(f"{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed: we hold the lock
        earlier = [path for path in cache_dir.iterdir() if path.name.startswith(f"{slot}-")]
        try:
            partial.mkdir()
            write(partial, earlier)
            _seal(partial)
            shutil.rmtree(final, ignore_errors=True)  # damaged
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for path in earlier:
            if path != final:
                shutil.rmtree(path, ignore_errors=True)
    return final


def is_intact(directory: Path) -> bool:
    """Whether every file has the size and CRC-32 that it had when it was written. Reads all files."""
    try:
        known: dict[str, list[int]] = json.loads((directory / CHECKSUMS).read_text())
        sizes_match = all((directory / name).stat().st_size == size for name, (size, _) in known.items())
        return sizes_match and all(_crc32(directory / name) == crc for name, (_, crc) in known.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _seal(directory: Path) -> None:
    known = {path.name: [path.stat().st_size, _crc32(path)] for path in sorted(directory.iterdir())}
    (directory / CHECKSUMS).write_text(json.dumps(known))
    for name in [*known, CHECKSUMS]:
        with (directory / name).open("r+b") as file:
            os.fsync(file.fileno())  # or a power cut after the rename leaves zeros of the right size


def _crc32(path: Path) -> int:
    checksum, block = 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            checksum = zlib.crc32(block[:count], checksum)
    return checksum


def map_array(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The uint8 array in a file as a tensor that stays on disk: pages are read as they are touched. Writing into the
    tensor changes memory only, never the file."""
    with path.open("rb") as file:
        if sys.platform == "linux":
            # A private mapping counts in full against memory (100 GB on a laptop: ENOMEM) unless it says NORESERVE.
            # Python names that flag since 3.13 only; 0x4000 is its value on x86-64 and ARM.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
            memory = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        else:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)
