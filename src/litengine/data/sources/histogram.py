"""Mean and deviation of pixels from how often each value comes: exact, in whatever order the images are read."""

import torch
from torch import Tensor


def histogram(images: Tensor) -> Tensor:
    """int64 (C, 256): how often each value stands in each channel of uint8 images (N, C, H, W)."""
    channels = images.swapaxes(0, 1).flatten(1)  # (N, C, H, W) -> (C, N * H * W)
    return torch.stack([torch.bincount(pixels, minlength=256) for pixels in channels])


def moments(counts: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of 0..1, from an int64 histogram (C, 256)."""
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = share @ values
    variance = share @ values.square() - mean.square()
    return mean.tolist(), variance.clamp(min=0).sqrt().tolist()
