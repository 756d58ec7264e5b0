"""The network of the CIFAR-10 speed records: a frozen whitening layer, then blocks of two convolutions each."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # height and width of the whitened patches, in pixels
REGULARIZATION = (
    5e-4  # added to the variances of patches, so that directions that hardly vary (noise) are not amplified
)


class WhitenedCNN(nn.Module):
    """Whitening of 2x2 patches, a block for each width, global max pooling, and a linear head.

    Takes float images (N, in_channels, H, W) of any size from 2^blocks + 1 pixels on, returns logits (N, num_classes).
    With the defaults it has 1,972,792 parameters; 1,971,352 of them are trained, all but the whitening filters and the
    scales of BatchNorm. The filters are random and orthogonal until `initialize` computes them from images.

    Args:
        widths: channels of each block.
        in_channels: channels of the images.
        num_classes: logits for each image.

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
                raise ValueError(f"WhitenedCNN: {name} is {value}: choose 1 or more")

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
            # a single number has no deviation
            if self.head.weight.numel() > 1:
                self.head.weight /= self.head.weight.std()

    def forward(self, images: Tensor) -> Tensor:
        smallest = 2 ** len(self.blocks) + PATCH - 1
        if min(images.shape[-2:]) < smallest:
            raise ValueError(
                f"WhitenedCNN: the images have {images.shape[-2]}x{images.shape[-1]} pixels, but "
                f"{len(self.blocks)} widths need {smallest}x{smallest} or more: use larger images or fewer widths"
            )
        features = self.activation(self.whiten(images))  # (N, C, H, W) -> (N, 8 * C, H - 1, W - 1)
        features = self.blocks(features)  # (N, 24, 31, 31) -> (N, 64, 15, 15) -> (N, 256, 7, 7) -> (N, 256, 3, 3)
        # max_pool2d, because amax splits its gradient among equal maxima
        features = F.max_pool2d(features, features.shape[-2:]).flatten(1)  # (N, 256, 3, 3) -> (N, 256)
        logits: Tensor = self.head(features) / features.shape[1]
        return logits

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Computes the whitening filters from training images; a few thousand are enough.

        The filters project a patch onto the eigenvectors of the covariance of patches, each divided by the standard
        deviation along it. Every filter is repeated with the opposite sign, because the activation passes one sign
        only. The same images give the same filters.

        Args:
            images: float (N, in_channels, H, W), normalised as for training, on any device.

        Raises:
            ValueError: if the images have another number of channels or less than 2x2 pixels, or there are none.
        """
        channels = self.whiten.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not len(images) or min(images.shape[-2:]) < PATCH:
            raise ValueError(
                f"WhitenedCNN: the whitening filters cannot be computed from images of shape {list(images.shape)}: "
                f"give (N, {channels}, H, W), at least one image of {PATCH}x{PATCH} pixels"
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
        # float64 on the CPU, because the smallest variances are a ten-thousandth of the largest
        variances, directions = torch.linalg.eigh((products / number - mean.outer(mean)).cpu())
        directions = directions.T.flip(0)  # (direction, pixel), the largest variance first
        # The sign of an eigenvector is arbitrary: choose a positive projection onto (1, 1/2, 1/4, …), on which patterns
        # of equal size and alternating sign do not cancel.
        negative = directions @ 0.5 ** torch.arange(size, dtype=torch.float64) < 0
        directions[negative] *= -1
        scales = (variances.flip(0).clamp(min=0) + REGULARIZATION).rsqrt()
        self._set_filters((directions * scales[:, None]).float())

    @torch.no_grad()
    def _set_filters(self, directions: Tensor) -> None:
        """Sets the whitening filters from directions (4 * C, 4 * C), one in each row."""
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
    """3x3; the first filters start as the identity, the others random."""
    layer = nn.Conv2d(before, after, 3, padding="same", bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:before])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Without a trained scale, because the next convolution has one; with fast statistics for a short training."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer
