"""A network that several processes train as one does: no BatchNorm, whose statistics would be those of a slice, and no
dropout. It is on the path of programs that tests start, too."""

from torch import Tensor, nn


class Plain(nn.Module):
    """Cannot take an empty batch, like many networks."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3, image_size: int = 8) -> None:
        super().__init__()
        self.filters = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.head = nn.Linear(4 * (image_size // 2) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(self.filters(images).relu(), 2)
        logits: Tensor = self.head(features.reshape(len(features), -1))
        return logits
