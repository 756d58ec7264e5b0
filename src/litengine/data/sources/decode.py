"""Read images in parallel, in order: files, or the items of a dataset."""

import os
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from .pixels import USUAL, Reading, Size, decode, reason, sides

BATCH = 32
SMALL = 500  # images: fewer are decoded before worker processes have started
SMALL_BYTES = 20_000_000  # of image files: decoded in about a second

# An image, uint8 (3, H, W); its label, if the dataset has labels; why it cannot be used, with an image of zeros.
Item = tuple[NDArray[np.uint8], Any, str | None]
Batch = tuple[NDArray[np.uint8], list[Any], list[str | None]]


@dataclass
class _Files(Dataset[Item]):
    paths: list[str]
    size: Size
    reading: Reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        path = self.paths[index]
        try:
            return decode(path, self.size, self.reading), None, None
        except Exception as error:  # Pillow's decoders raise many kinds
            return np.zeros((3, *sides(self.size)), dtype=np.uint8), None, reason(error, path)


def decode_batches(
    paths: list[str], size: Size, batch: int = BATCH, reading: Reading = USUAL
) -> Generator[tuple[NDArray[np.uint8], list[str | None]], None, None]:
    """Decode `paths`, in order, `batch` at a time, by as many processes as there are cores.

    Yields uint8 (n, 3, H, W), and for each image None, or why it could not be decoded; its pixels are then zero.
    Close the generator if it is not read to its end. Raises OSError if a process dies.
    """
    few = len(paths) < SMALL and sum(os.path.getsize(path) for path in paths if os.path.isfile(path)) < SMALL_BYTES
    with closing(read_batches(_Files(paths, size, reading), 0 if few else _cores(), batch)) as batches:
        for images, _, problems in batches:
            yield images, problems


def read_batches(dataset: Dataset[Item], workers: int, batch: int = BATCH) -> Generator[Batch, None, None]:
    """The items of a dataset, in order, `batch` at a time. Close the generator if it is not read to its end. Raises
    OSError if a worker process dies."""
    try:
        # a generator of its own: DataLoader draws a seed, and the global state must not depend on what is cached
        yield from DataLoader(dataset, batch, num_workers=workers, collate_fn=_collate, generator=torch.Generator())
    except RuntimeError as error:  # problems of the data are items, so this is about a process
        raise OSError("A process that reads images ended unexpectedly (out of memory?): run it again.") from error


def _collate(items: list[Item]) -> Batch:
    # not as a tensor: DataLoader moves tensors through /dev/shm, which is small in containers
    images, labels, problems = zip(*items, strict=True)
    return np.stack(images), list(labels), list(problems)


def _cores() -> int:
    """The cores this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
