"""What an augmentation is, and the random numbers that it may use."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

BATCH, IMAGE = 0xBA7C, 0x13A6E  # tags of the random streams of a batch and of an image


@dataclass
class Draw:
    """The random numbers of one batch: a function of (seed, epoch, batch) alone, never of global state.

    Numbers are drawn for the whole global batch and cut to the slice of this process, so that 1, 2 or 8 processes see
    the same images with the same changes. They are drawn on the CPU, so that they are the same on every device.
    """

    seed: int
    epoch: int
    batch: int
    size: int  # images in the global batch
    slice: slice  # the images of it that this process holds
    indices: np.ndarray  # int64 (n,): the position in the dataset of each of these
    device: torch.device  # of the images

    @cached_property
    def _generator(self) -> np.random.Generator:
        return np.random.default_rng((BATCH, self.seed, self.epoch, self.batch))

    @cached_property
    def _streams(self) -> np.random.SeedSequence:
        return np.random.SeedSequence((IMAGE, self.seed))

    def integers(self, low: int, high: int) -> Tensor:
        """int64 (n,), uniform in low..high, both included; new numbers at each call."""
        return self.to_device(self.array(low, high))

    def array(self, low: int, high: int) -> np.ndarray:
        """The same on the CPU, for computations that are to be launched on no device."""
        numbers: np.ndarray = self._generator.integers(low, high, size=self.size, endpoint=True)[self.slice]
        return numbers

    def uniform(self, low: float, high: float) -> Tensor:
        """float32 (n,), uniform in low..high; new numbers at each call."""
        numbers = self._generator.uniform(low, high, size=self.size).astype(np.float32)
        return self.to_device(numbers[self.slice])

    def per_image(self, low: int, high: int) -> Tensor:
        """int64 (n,), uniform in low..high, both included; new numbers at each call.

        They are a function of the seed and the image's position in the dataset alone: an image has the same number in
        every epoch and batch.
        """
        (stream,) = self._streams.spawn(1)
        bits = splitmix64(stream.generate_state(1, np.uint64), self.indices)
        return self.to_device(low + (bits % np.uint64(high - low + 1)).astype(np.int64))

    def to_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)


def splitmix64(seed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """uint64 (n,), uniform over all values, each a function of the seed, uint64 (1,), and its position in the sequence,
    int64 (n,), from 0 on (Steele, Lea and Flood 2014, SplitMix64)."""
    bits: np.ndarray = seed + (position.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


class Augment(ABC):
    """A random change to a batch of images. It keeps no state between calls, and any batch may be asked for again."""

    # whether a background thread may call it while the network trains; not if it changes the global random state
    thread_safe: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        """uint8 (N, C, H, W) to the same, on the same device, in new memory; random numbers come from `draw` only."""
