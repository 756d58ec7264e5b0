"""ResNet-18 and its relatives for small images: torchvision's network with a stem that keeps the resolution."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet


class ResNet(TorchvisionResNet):  # type: ignore[misc]
    """torchvision's ResNet of basic blocks, with a 3x3 stem of stride 1 and no max pooling after it.

    Takes float images (N, in_channels, H, W) of any size, meant for 28 to 96 pixels; returns logits (N, num_classes).
    With the defaults it is the ResNet-18 usual for CIFAR-10, with 11,173,962 parameters.

    Args:
        depths: residual blocks of two convolutions in each of the four stages, which have 64, 128, 256, 512 channels;
            (3, 4, 6, 3) is ResNet-34.
        in_channels: channels of the images.
        num_classes: logits for each image.
        zero_init_residual: start with every residual branch at zero, so that each block passes its input through.

    Raises:
        ValueError: for another number of stages, or a size below 1.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015).
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        in_channels: int = 3,
        num_classes: int = 10,
        zero_init_residual: bool = False,
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"ResNet: depths is {list(depths)}: give four numbers of 1 or more")
        for name, value in {"in_channels": in_channels, "num_classes": num_classes}.items():
            if value < 1:
                raise ValueError(f"ResNet: {name} is {value}: choose 1 or more")
        super().__init__(BasicBlock, list(depths), num_classes=num_classes, zero_init_residual=zero_init_residual)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
        self.maxpool = nn.Identity()
