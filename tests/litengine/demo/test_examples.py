"""Example images are those of the test split; without data there are none, and nothing is downloaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FakeSource
from PIL import Image

from litengine.data import Digits
from litengine.demo.examples import save_examples


def fake(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "helpers.FakeSource", "init_args": arguments}


def pixels(path: str) -> np.ndarray:
    return np.moveaxis(np.asarray(Image.open(path)), 2, 0)


def test_the_first_test_image_of_each_digit(tmp_path: Path) -> None:
    paths = save_examples({"class_path": "litengine.data.Digits"}, tmp_path)
    assert paths == [str(tmp_path / f"{digit}.png") for digit in range(10)]
    test = Digits().load("test")
    for digit, path in enumerate(paths):
        np.testing.assert_array_equal(pixels(path), test.images[test.labels == digit][0])


def test_of_many_classes_ten_are_spread_over_all(tmp_path: Path) -> None:
    counts = [2] * 28
    names = [f"class {label}" for label in range(28)]
    paths = save_examples(fake(train=counts, test=counts, names=names), tmp_path)
    labels = [int(Path(path).stem) for path in paths]
    assert labels == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    test = FakeSource(counts, test=counts, names=names).load("test")
    for label, path in zip(labels, paths, strict=True):
        np.testing.assert_array_equal(pixels(path), test.images[test.labels == label][0])


def test_a_class_without_test_images_is_left_out(tmp_path: Path) -> None:
    paths = save_examples(fake(train=[3, 3, 3], test=[2, 0, 1]), tmp_path)
    assert [Path(path).name for path in paths] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    "source",
    [
        fake(train=[2, 2], test=None),
        {"class_path": "litengine.data.CIFAR10", "init_args": {"root": "not/there"}},
        {"class_path": "litengine.data.ImageFolder", "init_args": {"root": "not/there"}},
        {"class_path": "litengine.data.Gone"},
    ],
)
def test_without_data_there_are_none_and_one_line_says_so(
    source: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert save_examples(source, tmp_path) == []
    said = f"no example images: the test split of {source['class_path']} is not at hand\n"
    assert capsys.readouterr().out == said
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
