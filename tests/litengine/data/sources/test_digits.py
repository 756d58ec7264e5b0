import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from litengine.data import Digits


def test_both_splits_hold_every_digit_once_and_in_proportion():
    source = Digits()
    source.prepare()
    train, test = source.load("train"), source.load("test")
    assert source.load("val") is None
    assert source.class_names == list("0123456789")
    assert source.image_shape == (3, 32, 32)
    assert train.images.shape == (1437, 3, 32, 32)
    assert test.images.shape == (360, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64

    whole = np.bincount(load_digits().target)
    np.testing.assert_array_equal(train.labels.bincount() + test.labels.bincount(), whole)
    assert np.abs(test.labels.bincount().numpy() - whole * 0.2).max() < 1
    originals = {image.tobytes() for image in load_digits().images}
    assert len(originals) == 1797  # no doubles, so the next line shows that the splits do not overlap
    assert len({image.numpy().tobytes() for image in torch.cat([train.images, test.images])}) == 1797


def test_pixels_are_the_bilinear_enlargement():
    digits = load_digits()
    train = Digits().load("train")
    # Half-pixel centres, edges clamped: written out with numpy for one image.
    place = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    low = np.floor(place).astype(int)
    high, weight = np.minimum(low + 1, 7), place - low

    def enlarge(image):
        rows = image[low] * (1 - weight[:, None]) + image[high] * weight[:, None]
        return rows[:, low] * (1 - weight) + rows[:, high] * weight

    numbers = np.sort(train_test_split(np.arange(1797), stratify=digits.target, test_size=0.2, random_state=0)[0])
    assert np.array_equal(train.labels, digits.target[numbers])
    for image, number in zip(train.images[:50], numbers, strict=False):
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])
        assert np.array_equal(image[0], np.round(enlarge(digits.images[number]) * 255 / 16))
