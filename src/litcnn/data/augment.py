"""Random changes to a whole batch of uint8 images, on the device it lies on; every image gets its own draw."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Draw:
    """The random numbers of one batch: a function of (seed, epoch, batch) alone, never of global state.

    Numbers are drawn for the whole global batch and cut to this process's slice, so that 1, 2 or 8 processes see the
    same images with the same changes; and on the CPU, so that they are the same on every device.

    Attributes:
        seed, epoch, batch: the place in training.
        size: images in the global batch.
        slice: which of them this process holds.
        device: where the numbers are wanted.
    """

    seed: int
    epoch: int
    batch: int
    size: int
    slice: slice
    device: torch.device

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng((self.seed, self.epoch, self.batch))

    def integers(self, low: int, high: int) -> Tensor:
        """int64 (n,), uniform in low..high, both included; new numbers at each call."""
        numbers = self._generator.integers(low, high, size=self.size, endpoint=True)
        return torch.from_numpy(numbers[self.slice]).to(self.device, non_blocking=True)


class Augment(ABC):
    """A random change to a batch of images."""

    @abstractmethod
    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        """uint8 (N, C, H, W) to the same, on the same device; random numbers come from `draw` only."""


class RandomFlip(Augment):
    """Mirrors about half of the images left to right."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        flip = draw.integers(0, 1).bool()
        return torch.where(flip[:, None, None, None], images.flip(3), images)


class RandomCrop(Augment):
    """Pads by `padding` pixels on every side and cuts a window of the old size at a random place.

    Args:
        padding: pixels; each image moves by -padding..padding in both directions.
        mode: what stands in the padding: `zeros` (black) or the `reflect`ed border.
    """

    def __init__(self, padding: int = 4, mode: Literal["zeros", "reflect"] = "zeros") -> None:
        if padding < 1:
            raise ValueError(f"RandomCrop padding {padding} moves nothing: give 1 or more, or leave RandomCrop out")
        self.padding = padding
        self.mode = mode

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"RandomCrop cannot reflect {self.padding} pixels of a {height}x{width} image: padding must be smaller"
            )
        padded = F.pad(images, (self.padding,) * 4, mode="constant" if self.mode == "zeros" else self.mode)
        # every window as a view, no copy: (N, C, H + 2p, W + 2p) -> (N, C, 2p + 1, 2p + 1, H, W)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = draw.integers(0, 2 * self.padding), draw.integers(0, 2 * self.padding)
        return windows[torch.arange(len(images), device=images.device), :, top, left]
