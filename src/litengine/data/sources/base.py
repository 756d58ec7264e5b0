"""What every source of images is: class names, `prepare()` and `load(split)`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from .shards import Shards

Split = Literal["train", "val", "test"]


class Arrays(NamedTuple):
    """One split, whole.

    Attributes:
        images: uint8 (N, C, H, W), values 0..255; in memory, memory-mapped, or in shards.
        labels: int64 (N,), indices into the source's `class_names`.
        paths: the file of each image where there is one, in the same order.
        statistics: mean and standard deviation of each channel over all images, in units of 0..1, where known.
    """

    images: torch.Tensor | Shards
    labels: torch.Tensor
    paths: Sequence[str] | None = None
    statistics: tuple[list[float], list[float]] | None = None


class Source(ABC):
    """Where images come from. A new dataset is one subclass in one file; nothing else changes."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, by label. Known once `prepare()` has run."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image. Known once `prepare()` has run."""

    @abstractmethod
    def prepare(self) -> None:
        """Download, decode, cache: whatever must happen once a machine. Does nothing the second time, and may be
        called by several processes at once. Raises ValueError or OSError, with the remedy, where it cannot."""

    @abstractmethod
    def load(self, split: Split) -> Arrays | None:
        """The whole split, or None where the source has no such split. Call `prepare()` first."""

    def location(self) -> Path | None:
        """The file or folder with what `prepare()` has made; None where it leaves nothing on the disk."""
        return None
