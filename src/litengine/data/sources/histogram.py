"""Mean and deviation of pixels from counts of their values: exact, whatever the order of the images."""

import torch
from torch import Tensor


def histogram(images: Tensor) -> Tensor:
    """int64 (C, 256): the count of each value in each channel of uint8 images (N, C, H, W)."""
    channels = images.swapaxes(0, 1).flatten(1)  # (N, C, H, W) -> (C, N * H * W)
    return torch.stack([torch.bincount(pixels, minlength=256) for pixels in channels])


def moments(counts: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of 0..1, from an int64 histogram (C, 256)."""
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = share @ values
    variance = share @ values.square() - mean.square()
    return mean.tolist(), variance.clamp(min=0).sqrt().tolist()
