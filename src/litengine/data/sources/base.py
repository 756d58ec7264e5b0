"""The base class of all sources of images: class names, `prepare()` and `load(split)`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch

from .pixels import USUAL, Reading, Size
from .shards import Shards

Split = Literal["train", "val", "test"]


class Arrays(NamedTuple):
    """One split.

    Attributes:
        images: uint8 (N, C, H, W), values 0..255; in memory, memory-mapped, or in shards.
        labels: int64 (N,), indices into the source's `class_names`.
        paths: the file of each image, in the same order, if images are files.
        groups: int64 (N,): images of one group must not lie in two splits; None if each may.
        statistics: mean and standard deviation of each channel over all images, in units of 0..1, if known.
    """

    images: torch.Tensor | Shards
    labels: torch.Tensor
    paths: Sequence[str] | None = None
    statistics: tuple[list[float], list[float]] | None = None
    groups: torch.Tensor | None = None


class Source(ABC):
    """Where images come from. A new dataset is one subclass in one file; nothing else changes.

    Attributes:
        file_arguments: names of arguments that name files or folders.
        network_arguments: names of arguments that name addresses; a config from elsewhere must not set them.
        reading: how image files became pixels; it is kept in the checkpoint, because prediction needs the same.
    """

    file_arguments: ClassVar[tuple[str, ...]] = ()
    network_arguments: ClassVar[tuple[str, ...]] = ()
    reading: Reading = USUAL

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
        """Download, decode, cache: what must happen once a machine. Does nothing the second time, and several
        processes may call it at once. Raises ValueError or OSError, with the remedy, if it cannot."""

    @abstractmethod
    def load(self, split: Split) -> Arrays | None:
        """One split, or None if the source has no such split. Call `prepare()` first."""

    def location(self) -> Path | None:
        """The file or folder that `prepare()` has made; None if it keeps nothing on the disk."""
        return None


def checked_size(size: Size) -> Size:
    """One number for square images, else (height, width). Raises ValueError if it is not a size in pixels."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or min(both) < 1:
        raise ValueError(
            f"image_size {size} is not a size in pixels: choose 1 or more, for example 32, or height and width, for "
            "example [96, 128]."
        )
    return both[0] if both[0] == both[1] else both
