"""scikit-learn's bundled handwritten digits: real images that need no network."""

from importlib.metadata import distribution

import numpy as np
import torch
from torch.nn.functional import interpolate

from ..splits import stratified_shuffle
from .base import Arrays, Source, Split

FILE = "sklearn/datasets/data/digits.csv.gz"  # a row an image: 64 pixels, then the digit
IMAGE_SIZE = 32
TEST_IMAGES = 360


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
        # its file, because importing scikit-learn takes half a second
        digits = np.loadtxt(str(distribution("scikit-learn").locate_file(FILE)), delimiter=",")  # (1797, 65)
        labels = digits[:, -1].astype(np.int64)
        train, test = stratified_shuffle(labels, TEST_IMAGES, seed=0)
        chosen = np.sort(train if split == "train" else test)
        grey = torch.from_numpy(digits[chosen, :-1]).float().view(-1, 1, 8, 8)  # values 0..16
        images = interpolate(grey, size=IMAGE_SIZE, mode="bilinear")  # (N, 1, 32, 32)
        return Arrays((images * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1), torch.from_numpy(labels[chosen]))
