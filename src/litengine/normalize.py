"""From pixels to the input of a network."""

from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 1e30  # of mean and deviation


class Normalize(nn.Module):
    """Turns images (N, C, H, W), uint8 0..255 or float 0..1, into (pixels - mean) / std.

    The result has torch's default dtype, float32: in the Trainer's precisions bf16-true, 16-true and 64-true, Lightning
    sets it to that of the network. Mean and std are plain attributes, so that EMA and parameter counts ignore them.

    Args:
        channels_last: store the result as (N, H, W, C) in memory, in which convolutions are faster.
    """

    def __init__(self, channels_last: bool = True) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.set([0.0], [1.0])

    def set(self, mean: list[float], std: list[float]) -> None:
        """One number for each channel, in units of 0..1. A channel without any variation is only shifted.

        Raises ValueError for what no images have, such as NaN: the network would give NaN for every image.
        """
        if not all(abs(value) < LARGEST for value in (*mean, *std)) or min(std) < 0:
            raise ValueError(f"mean {mean} and std {std} are not those of images: finite numbers are needed")
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor([s or 1.0 for s in std], dtype=torch.float32).view(-1, 1, 1)
        self._made: tuple[tuple[Any, ...], Tensor, Tensor] | None = None  # constants, and the images that they are for

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self._constants(images)
        if self.channels_last:
            # It is faster to reorder bytes than floats, and to subtract from whole rows than from single pixels.
            pixels = torch.stack(images.unbind(1), -1)  # (N, C, H, W) -> (N, H, W, C)
            result = pixels.to(torch.float32).sub_(mean).div_(std).permute(0, 3, 1, 2)
        else:
            # an image that was decoded alone lies channels last in memory, which .view in a network refuses
            result = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format).sub_(mean).div_(std)
        return result.to(torch.get_default_dtype())

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std in the units of these images: (C, 1, 1), or for channels_last of a row of pixels, (W, C)."""
        width = images.shape[-1]
        key = (images.device, images.dtype, width, self.channels_last)
        if self._made is None or self._made[0] != key:
            scale = 255.0 if images.dtype == torch.uint8 else 1.0
            mean, std = ((value * scale).to(images.device) for value in (self.mean, self.std))
            if self.channels_last:
                mean, std = (value.flatten().repeat(width, 1) for value in (mean, std))
            self._made = (key, mean, std)
        return self._made[1:]
