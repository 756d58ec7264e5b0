"""From pixels to the input of a network."""

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Turns images (N, C, H, W), uint8 0..255 or float 0..1, into float32 (pixels - mean) / std.

    Mean and std are plain attributes, so that EMA and parameter counts ignore them.

    Args:
        channels_last: store the result as (N, H, W, C) in memory, in which convolutions are faster.
    """

    def __init__(self, channels_last: bool = True) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.set([0.0], [1.0])

    def set(self, mean: list[float], std: list[float]) -> None:
        """One number for each channel, in units of 0..1. A channel without any variation is only shifted."""
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor([s or 1.0 for s in std]).view(-1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        result = images.to(torch.float32, copy=True).sub_(self.mean * scale).div_(self.std * scale)
        return result.contiguous(memory_format=torch.channels_last) if self.channels_last else result
