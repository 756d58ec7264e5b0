import sys

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch.utils.data import Dataset, IterableDataset, Subset

from litengine.data import Source, TorchDataset


class Listed(Dataset):
    """A user's own dataset: items handed in, or `count` made up."""

    def __init__(self, count=3, items=None, classes=None):
        self.items = items if items is not None else [made_up(index) for index in range(count)]
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def made_up(index):
    return np.full((3, 8, 8), index % 256, dtype=np.uint8), index % 3


def source_of(*items, **arguments):
    return TorchDataset(Listed(items=list(items)), image_size=6, **arguments)


RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)


def test_order_and_labels_are_kept_through_workers():
    source = TorchDataset(Listed(700), test=Listed(5), image_size=8, num_workers=2)
    source.prepare()
    train = source.load("train")
    assert train.images.shape == (700, 3, 8, 8)
    assert source.image_shape == (3, 8, 8)
    assert train.images[:, 0, 0, 0].tolist() == [index % 256 for index in range(700)]
    assert train.labels.tolist() == [index % 3 for index in range(700)]
    assert len(source.load("test").labels) == 5
    assert source.load("val") is None
    assert source.load("train").images is train.images  # read once


def test_class_names_come_from_the_argument_the_dataset_or_the_labels():
    items = [made_up(index) for index in range(3)]
    named = Listed(items=items, classes=["a", "b", "c"])
    assert TorchDataset(named, class_names=["x", "y", "z"]).class_names == ["x", "y", "z"]
    assert TorchDataset(named).class_names == ["a", "b", "c"]
    assert TorchDataset(Listed(items=items)).class_names == ["0", "1", "2"]


class Named(Listed):
    """Classes with label numbers of their own, as two ImageFolders have if one lacks a class."""

    def __init__(self, *names, by="classes"):
        super().__init__(items=[(RGB, label) for label in range(len(names))])
        setattr(self, by, list(names) if by == "classes" else {name: label for label, name in enumerate(names)})


@pytest.mark.parametrize("by", ["classes", "class_to_idx"])
def test_labels_are_matched_by_name(by):
    test = Subset(Named("b", "c", by=by), [0, 1])
    source = TorchDataset(Named("a", "b", "c", by=by), test=test, val=Named("c", "a", by=by))
    assert source.class_names == ["a", "b", "c"]
    assert source.load("train").labels.tolist() == [0, 1, 2]
    assert source.load("test").labels.tolist() == [1, 2]
    assert source.load("val").labels.tolist() == [2, 0]


def test_classes_that_cannot_be_matched_are_refused():
    with pytest.raises(ValueError, match="test has the class 'd', which train does not have"):
        TorchDataset(Named("a", "b"), test=Named("b", "d"))
    with pytest.raises(ValueError, match="two classes of train have the same name"):
        TorchDataset(Named("a", "a", "b"), test=Named("a", "b"))
    test = Named("b", "a")
    test.items.append((RGB, 2))
    with pytest.raises(ValueError, match=r"test\[2\] has label 2, which is not a class of that dataset"):
        TorchDataset(Named("a", "b"), test=test).load("test")


@pytest.mark.parametrize("label", [-1, 1.5, "cat", None, torch.tensor([0, 1])])
def test_a_label_that_is_none_is_named(label):
    with pytest.raises(ValueError, match=r"train\[2\] has label .*: labels must be the integers") as caught:
        source_of((RGB, 0), (RGB, 1), (RGB, label)).prepare()
    assert repr(label) in str(caught.value)


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(ValueError, match=r"train\[1\] has label 2, outside 0\.\.1"):
        source_of((RGB, 0), (RGB, 2), class_names=["a", "b"]).prepare()
    source = TorchDataset(Listed(items=[made_up(0), made_up(1)]), test=Listed(3))
    with pytest.raises(ValueError, match=r"test\[2\] has label 2, outside 0\.\.1"):
        source.load("test")


@pytest.mark.parametrize(
    ("item", "message"),
    [((RGB.astype(np.float32), 0), "ValueError: .*0..1 is needed"), (None, "TypeError: [^\n]*$")],
)
def test_an_image_that_is_none_is_one_line_even_from_a_worker(item, message):
    items = [made_up(index) for index in range(600)]
    items[510] = item
    with pytest.raises(ValueError, match=rf"^train\[510\] cannot be used: {message}"):
        TorchDataset(Listed(items=items), image_size=8).prepare()


def test_empty_and_iterable_datasets_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield made_up(0)

    with pytest.raises(ValueError, match="Listed is empty"):
        source_of().prepare()
    with pytest.raises(ValueError, match="map-style"):
        TorchDataset(Stream())


def test_datasets_are_given_by_class_path(monkeypatch):
    """As in YAML: torchvision's, and a user's own class."""
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "my_data", module)
    monkeypatch.setattr(Listed, "__module__", "my_data")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Source, "source")
    fake = {"class_path": "torchvision.datasets.FakeData", "init_args": {"size": 6, "image_size": [3, 8, 8]}}
    own = {"class_path": "my_data.Listed", "init_args": {"count": 4}}
    arguments = {"train": fake, "test": own, "image_size": 8}
    parsed = parser.parse_object({"source": {"class_path": "TorchDataset", "init_args": arguments}})
    source = parser.instantiate(parsed).source
    assert isinstance(source, TorchDataset)
    expected = np.asarray(source.datasets["train"][3][0]).transpose(2, 0, 1)
    np.testing.assert_array_equal(source.load("train").images[3], expected)
    assert len(source.load("test").labels) == 4
