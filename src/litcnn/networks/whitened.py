"""The network of the CIFAR-10 speed records: a frozen whitening layer, then blocks of two convolutions each."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # height and width of the whitened patches, in pixels
REGULARIZATION = 5e-4  # added to the variances of patches: what hardly varies is noise, and is not blown up to 1


class WhitenedCNN(nn.Module):
    """Whitening of 2x2 patches, a block for each width, global max pooling, and a linear head.

    Takes float images (N, in_channels, H, W) of any size from 2^blocks + 1 pixels on, returns logits (N, num_classes).
    With the defaults it has 1,972,792 parameters, of which 1,971,352 are trained: the filters of the whitening and
    the scales of BatchNorm are not. The whitening decorrelates only after `initialize` was given images; until
    then its filters are random, but orthogonal.

    Args:
        widths: channels of each block.
        in_channels: channels of the images.
        num_classes: logits an image.

    Raises:
        ValueError: for a size below 1, or, when called, for images that are too small.

    Source: Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), airbench94.
    """

    def __init__(self, widths: Sequence[int] = (64, 256, 256), in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        at_least_one = {
            "number of widths": len(widths),
            "smallest width": min(widths, default=1),
            "in_channels": in_channels,
            "num_classes": num_classes,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"WhitenedCNN: {name} is {value}, 1 or more is needed")

        size = in_channels * PATCH**2  # numbers a patch
        self.whiten = nn.Conv2d(in_channels, 2 * size, PATCH)
        self.whiten.weight.requires_grad = False
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self._set_filters(nn.init.orthogonal_(torch.empty(size, size)))
        self.activation = nn.GELU()
        channels = [2 * size, *widths]
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in itertools.pairwise(channels)))
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        with torch.no_grad():
            # one number alone has no deviation
            if self.head.weight.numel() > 1:
                self.head.weight /= self.head.weight.std()

    def forward(self, images: Tensor) -> Tensor:
        smallest = 2 ** len(self.blocks) + PATCH - 1
        if min(images.shape[-2:]) < smallest:
            raise ValueError(
                f"WhitenedCNN: the images have {images.shape[-2]}x{images.shape[-1]} pixels, {smallest}x{smallest} "
                f"or more are needed with {len(self.blocks)} widths: use larger images or fewer widths"
            )
        features = self.activation(self.whiten(images))  # (N, C, H, W) -> (N, 8 * C, H - 1, W - 1)
        features = self.blocks(features)  # (N, 24, 31, 31) -> (N, 64, 15, 15) -> (N, 256, 7, 7) -> (N, 256, 3, 3)
        # not amax, whose gradient is shared among equal maxima
        features = F.max_pool2d(features, features.shape[-2:]).flatten(1)  # (N, 256, 3, 3) -> (N, 256)
        logits: Tensor = self.head(features) / features.shape[1]
        return logits

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Sets the filters of the whitening from images: those that training will see, a few thousand are plenty.

        A patch is projected onto the directions that patches vary in (the eigenvectors of their covariance), each
        divided by the standard deviation along it; every filter is there once more with the opposite sign, since the
        activation lets only one sign through. The same images give the same filters.

        Args:
            images: float (N, in_channels, H, W), normalised as the network will get them, on any device.

        Raises:
            ValueError: if the images have another number of channels or less than 2x2 pixels, or there are none.
        """
        channels = self.whiten.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not len(images) or min(images.shape[-2:]) < PATCH:
            raise ValueError(
                f"WhitenedCNN: the whitening cannot be learnt from images of shape {list(images.shape)}: "
                f"(N, {channels}, H, W) with at least one image of {PATCH}x{PATCH} pixels is needed"
            )
        size = channels * PATCH**2
        if images.device.type == "mps":  # has no float64
            images = images.cpu()
        number = 0
        total = torch.zeros(size, dtype=torch.float64, device=images.device)
        products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
        for some in torch.split(images, 500):  # all patches at once would take gigabytes
            patches = F.unfold(some.double(), PATCH).transpose(0, 1).flatten(1)  # (N, C, H, W) -> (4 * C, patches)
            number += patches.shape[1]
            total += patches.sum(1)
            products += patches @ patches.T
        mean = total / number
        # float64, on the CPU: the smallest variances are a ten-thousandth of the largest
        variances, directions = torch.linalg.eigh((products / number - mean.outer(mean)).cpu())
        directions = directions.T.flip(0)  # (direction, pixel), the largest variance first
        # Either sign makes an eigenvector: take the one with a positive projection onto (1, 1/2, 1/4, …), on which
        # patterns of equal size and alternating sign do not cancel.
        negative = directions @ 0.5 ** torch.arange(size, dtype=torch.float64) < 0
        directions[negative] *= -1
        scales = (variances.flip(0).clamp(min=0) + REGULARIZATION).rsqrt()
        self._set_filters((directions * scales[:, None]).float())

    @torch.no_grad()
    def _set_filters(self, directions: Tensor) -> None:
        """Filters of the whitening from directions (4 * C, 4 * C), one a row."""
        self.whiten.weight.copy_(torch.cat([directions, -directions]).view(self.whiten.weight.shape))


class Block(nn.Sequential):
    """Convolution, 2x2 max pooling, norm, activation, convolution, norm, activation: (N, before, H, W) to
    (N, after, H // 2, W // 2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            convolution(before, after),
            nn.MaxPool2d(2),
            norm(after),
            nn.GELU(),
            convolution(after, after),
            norm(after),
            nn.GELU(),
        )


def convolution(before: int, after: int) -> nn.Conv2d:
    """3x3, its first filters passing the input through unchanged at first, the others random."""
    layer = nn.Conv2d(before, after, 3, padding="same", bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:before])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Without a trained scale, since the next convolution has one; a short memory, since the training is short."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer
