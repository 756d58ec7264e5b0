"""The CNN of the article "How to implement a CNN in PyTorch": blocks of convolutions, then two linear layers."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


class CNN(nn.Module):
    """Blocks of convolutions with BatchNorm and activation, each followed by pooling; then two linear layers.

    Takes float images (N, in_channels, H, W) of `image_size`, returns logits (N, num_classes). With the defaults it
    has 3,249,994 parameters.

    Args:
        widths: channels of each block.
        convolutions: number of convolutions in each block.
        kernel_size: of every convolution, in pixels.
        stride: of every convolution, in pixels.
        padding: of every convolution, in pixels of zeros on each side.
        pooling: at the end of each block: the `max` or the average (`avg`) of 2x2 pixels.
        activation: class of the non-linearity; it is called without arguments.
        dropout: probability that a hidden unit is dropped, 0 to below 1.
        conv_dropout: probability that a channel is dropped at the end of a block, likewise; the article suggests 0.2.
        hidden: units of the hidden layer.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels: one number for both, or two.
        num_classes: logits for each image.

    Raises:
        ValueError: for a combination that cannot work.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256),
        convolutions: int = 2,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        pooling: Literal["max", "avg"] = "max",
        activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.5,
        conv_dropout: float = 0.0,
        hidden: int = 512,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        given = (image_size, image_size) if isinstance(image_size, int) else image_size
        at_least_one = {
            "number of widths": len(widths),
            "smallest width": min(widths, default=1),
            "convolutions": convolutions,
            "kernel_size": kernel_size,
            "stride": stride,
            "hidden": hidden,
            "in_channels": in_channels,
            "image_size": min(given),
            "num_classes": num_classes,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"CNN: {name} is {value}: choose 1 or more")
        if padding < 0:
            raise ValueError(f"CNN: padding is {padding}: choose 0 or more")
        for name, probability in {"dropout": dropout, "conv_dropout": conv_dropout}.items():
            if not 0 <= probability < 1:
                raise ValueError(f"CNN: {name} is {probability}: choose a probability of 0 to below 1")
        if pooling not in ("max", "avg"):
            raise ValueError(f"CNN: pooling is {pooling!r}: choose 'max' or 'avg'")

        pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
        blocks: list[nn.Module] = []
        channels, sides = in_channels, list(given)
        for number, width in enumerate(widths, start=1):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(channels, width, kernel_size, stride, padding),
                    nn.BatchNorm2d(width),
                    activation(),
                ]
                channels = width
                sides = [max(0, (side + 2 * padding - kernel_size) // stride + 1) for side in sides]
            sides = [side // 2 for side in sides]
            if min(sides) == 0:
                raise ValueError(
                    f"CNN: nothing is left of a {given[0]}x{given[1]} image after block {number} of {len(widths)} "
                    f"({convolutions} convolutions with kernel_size {kernel_size}, stride {stride}, padding {padding}, "
                    "then 2x2 pooling in each block): use larger images, fewer widths, a smaller stride or more padding"
                )
            blocks.append(nn.Sequential(*layers, pool(2), nn.Dropout2d(conv_dropout)))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),  # (N, channels, h, w) -> (N, channels * h * w)
            nn.Linear(channels * sides[0] * sides[1], hidden),
            activation(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(images))
        return logits
