"""Random changes to a whole batch of uint8 images, on its device; every image gets its own random draw."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from litengine.data import Augment, Draw


class RandomFlip(Augment):
    """Mirrors about half of the images left to right."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return _mirror(images, draw.integers(0, 1).bool())


class AlternatingFlip(Augment):
    """Mirrors every image in every other epoch: a random half of them in even epochs, the others in odd epochs.

    Two epochs show each image from both sides; RandomFlip shows half of the images twice from the same side
    (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU").
    """

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return _mirror(images, (draw.per_image(0, 1) + draw.epoch) % 2 == 1)


class RandomCrop(Augment):
    """Pads `padding` pixels on every side and cuts a window of the old size at a random position.

    Args:
        padding: pixels; each image moves by -padding..padding in both directions.
        mode: fill the padding with `zeros` (black) or `reflect` the border.
    """

    def __init__(self, padding: int = 4, mode: Literal["zeros", "reflect"] = "zeros") -> None:
        if padding < 1:
            raise ValueError(f"RandomCrop padding {padding} moves nothing: choose 1 or more, or leave RandomCrop out")
        self.padding = padding
        self.mode = mode

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        number, channels, height, width = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"RandomCrop cannot reflect {self.padding} pixels of a {height}x{width} image: padding must be smaller"
            )
        top, left = draw.array(0, 2 * self.padding), draw.array(0, 2 * self.padding)
        padded = F.pad(images, (self.padding,) * 4, mode="constant" if self.mode == "zeros" else self.mode).contiguous()
        rows, columns = padded.shape[2:]
        area, volume = rows * columns, channels * rows * columns
        # A view of all windows, one for each start byte: index_select copies whole rows of pixels, advanced indexing
        # copies single pixels.
        last = (number - 1) * volume + 2 * self.padding * (columns + 1)  # below 0 without images
        windows = padded.as_strided((max(0, last + 1), channels, height, width), (1, area, columns, 1))
        return windows.index_select(0, draw.to_device(np.arange(number) * volume + top * columns + left))


class Cutout(Augment):
    """Hides one square of each image, with its centre anywhere in the image; the square is clipped at the border.

    The square gets the mean colour of its image. DeVries and Taylor 2017 ("Improved Regularization of Convolutional
    Neural Networks with Cutout") fill it with the mean of the dataset, which is not known before normalisation. They
    found 16 pixels best for CIFAR-10, 8 for CIFAR-100.

    Args:
        size: pixels; height and width of the square.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"Cutout size {size} hides nothing: choose 1 or more, or leave Cutout out")
        self.size = size

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        if self.size >= min(height, width):
            raise ValueError(f"Cutout of {self.size} pixels can hide all of a {height}x{width} image: choose fewer")
        rows, columns = (self._hidden(draw.integers(0, length - 1), length) for length in (height, width))
        hidden = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
        # integers, because sums of floats differ between devices
        total = images.sum((2, 3), dtype=torch.int32)
        mean = ((total + height * width // 2) // (height * width)).to(torch.uint8)[:, :, None, None]
        return images + hidden * (mean - images)  # exact modulo 256; torch.where is five times slower on bytes

    def _hidden(self, centre: Tensor, length: int) -> Tensor:
        """bool (n, length): the pixels that the square covers along one side."""
        first = centre[:, None] - self.size // 2
        pixel = torch.arange(length, device=centre.device)
        return (pixel >= first) & (pixel < first + self.size)


def _mirror(images: Tensor, which: Tensor) -> Tensor:
    """The images, those where `which` (bool (N,)) is True mirrored left to right."""
    mirrored = images.flip(3)
    if images.device.type != "cpu":
        return torch.where(which[:, None, None, None], mirrored, images)
    keep = ~which.numpy()
    mirrored.numpy()[keep] = images.numpy()[keep]  # numpy copies whole images, torch single bytes
    return mirrored
