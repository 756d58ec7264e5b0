"""scikit-learn's bundled handwritten digits: real images that need no network."""

import torch
from torch.nn.functional import interpolate

from .base import Arrays, Source, Split

IMAGE_SIZE = 32
TEST_FRACTION = 0.2


class Digits(Source):
    """1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), shipped inside scikit-learn as 8x8 grey images.

    They are scaled to 32x32 RGB, so that networks for CIFAR-10 take them. A fixed, stratified fifth is the test split:
    1,437 images for training, 360 for testing, the same on every machine.
    """

    @property
    def class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, IMAGE_SIZE, IMAGE_SIZE)

    def prepare(self) -> None:
        """Nothing to do: the images come with scikit-learn."""

    def load(self, split: Split) -> Arrays | None:
        """uint8 (1437 or 360, 3, 32, 32) and int64 labels 0..9; None for "val"."""
        if split == "val":
            return None
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        labels = torch.as_tensor(digits.target, dtype=torch.int64)
        train, test = train_test_split(range(len(labels)), stratify=labels, test_size=TEST_FRACTION, random_state=0)
        chosen = sorted(train if split == "train" else test)
        grey = torch.as_tensor(digits.images[chosen]).float().unsqueeze(1)  # (N, 1, 8, 8), values 0..16
        images = interpolate(grey, size=IMAGE_SIZE, mode="bilinear")  # (N, 1, 32, 32)
        return Arrays((images * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1), labels[chosen])
