"""Any map-style dataset of (image, label): torchvision's or your own."""

import operator
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .base import Arrays, Source, Split, checked_size
from .decode import SMALL, Item, read_batches
from .pixels import Size, fit, sides, to_pil, to_rgb
from .progress import progress_bar


class TorchDataset(Source):
    """Wraps datasets as `torch.utils.data` knows them, one a split, given by class path.

    Each is read once, by worker processes, into memory. An image may be a PIL image of any mode, or a tensor or array:
    uint8, or float from 0 to 1; (H, W), (C, H, W) or (H, W, C) with one, three or four channels. It becomes RGB, is
    resized until it covers `image_size`, and its centre is cropped. Give the datasets no random transform: each image
    is read from them once.

    If two datasets name their classes (`class_to_idx` or `classes`, as torchvision's do), the labels of `test` and
    `val` are matched to those of `train` by name, so that a class without test images shifts no other class.

    Args:
        train: for example `{class_path: torchvision.datasets.FashionMNIST, init_args: {root: data, download: true}}`.
        test: the test split, the same way (there with `train: false`).
        val: the validation split; without it, it is cut from train.
        class_names: by label of train; else `train.classes`, else "0", "1", … up to the largest label of train.
        num_workers: processes that read.
        image_size: height and width of every image, in pixels: one number for both, or two, such as [96, 128].
    """

    def __init__(
        self,
        # Not Dataset[Any]: jsonargparse 4.53 does not look into the arguments of a subclass of a subscripted type.
        train: Dataset,  # type: ignore[type-arg]
        test: Dataset | None = None,  # type: ignore[type-arg]
        val: Dataset | None = None,  # type: ignore[type-arg]
        class_names: list[str] | None = None,
        num_workers: int = 2,
        image_size: Size = 32,
    ) -> None:
        self.datasets: dict[str, Any] = {"train": train, "test": test, "val": val}
        self.num_workers = num_workers
        self.image_size = checked_size(image_size)
        self._class_names = class_names
        self._arrays: dict[str, Arrays] = {}
        for split, dataset in self.datasets.items():
            if dataset is not None and not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
                kind = type(dataset).__name__
                raise ValueError(f"{split}: {kind} has no __len__ or __getitem__: a map-style dataset is needed.")
        self._labels = {split: self._label_map(split) for split in ("test", "val")}
        if class_names is None and (named := names_of(train)):
            self._class_names = [named.get(label, str(label)) for label in range(max(named) + 1)]

    @property
    def class_names(self) -> list[str]:
        if self._class_names is None:
            labels = self._read("train").labels
            self._class_names = [str(label) for label in range(int(labels.max()) + 1)]
        return list(self._class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *sides(self.image_size))

    def prepare(self) -> None:
        """Read the training split, so that its errors are raised at once."""
        self.load("train")

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, 3, H, W) and int64 labels, in memory; None if no dataset was given.

        Raises ValueError, naming split and index, for an image or label that cannot be used.
        """
        if self.datasets[split] is None:
            return None
        arrays = self._read(split)
        if len(outside := (arrays.labels >= len(self.class_names)).nonzero()):
            index = int(outside[0])
            raise ValueError(
                f"{split}[{index}] has label {int(arrays.labels[index])}, outside 0..{len(self.class_names) - 1}, "
                "the labels of the classes. Correct the dataset or `class_names`."
            )
        return arrays

    def _label_map(self, split: str) -> dict[int, int]:
        """The label in train of each label of a split, if both name their classes; else empty."""
        train, other = names_of(self.datasets["train"]), names_of(self.datasets[split])
        if train == other or not train or not other:
            return {}
        labels = {name: label for label, name in train.items()}
        if unknown := sorted(set(other.values()) - set(labels)):
            raise ValueError(f"{split} has the class {unknown[0]!r}, which train does not have: remove it, or add it.")
        if len(labels) < len(train):
            raise ValueError(f"two classes of train have the same name, so those of {split} cannot be matched to them.")
        return {label: labels[name] for label, name in other.items()}

    def _read(self, split: Split) -> Arrays:
        if split in self._arrays:
            return self._arrays[split]
        dataset = self.datasets[split]
        count, kind = len(dataset), type(dataset).__name__
        if count == 0:
            raise ValueError(f"{split}: {kind} is empty.")
        images = torch.empty((count, *self.image_shape), dtype=torch.uint8)
        labels: list[int] = []
        batches = read_batches(_Pixels(dataset, self.image_size), self.num_workers if count >= SMALL else 0)
        with progress_bar(f"Reading {kind} ({split})", count) as advance:
            for pixels, batch_labels, problems in batches:
                first = len(labels)
                for index, (label, problem) in enumerate(zip(batch_labels, problems, strict=True), start=first):
                    if problem:
                        raise ValueError(f"{split}[{index}] cannot be used: {problem}")
                    labels.append(self._label(split, label, index))
                images[first : len(labels)] = torch.from_numpy(pixels)
                advance(len(pixels))
        self._arrays[split] = Arrays(images, torch.tensor(labels))
        return self._arrays[split]

    def _label(self, split: str, label: Any, index: int) -> int:
        """The label in train of an item's label."""
        try:
            value = operator.index(label)
        except TypeError:
            value = -1
        if value < 0:
            raise ValueError(f"{split}[{index}] has label {label!r}: labels must be the integers 0, 1, 2, …")
        matched = self._labels.get(split)
        if matched and value not in matched:
            raise ValueError(f"{split}[{index}] has label {value}, which is not a class of that dataset.")
        return matched[value] if matched else value


@dataclass
class _Pixels(Dataset[Item]):
    """The dataset with its images as uint8 (3, H, W). Exceptions become problems, because one that leaves a
    worker process has a page of traceback around it."""

    dataset: Any
    size: Size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        try:
            image, label = self.dataset[index]
            return fit(to_rgb(to_pil(image)), self.size), label, None
        except Exception as error:  # the user's dataset may raise anything
            return np.zeros((3, *sides(self.size)), dtype=np.uint8), None, f"{type(error).__name__}: {error}"


def names_of(dataset: Any) -> dict[int, str]:
    """The class name of each label, from `class_to_idx` or `classes` of a dataset or of the one that it is part of;
    empty if it has neither."""
    while not hasattr(dataset, "classes") and not hasattr(dataset, "class_to_idx") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    labels, classes = getattr(dataset, "class_to_idx", None), getattr(dataset, "classes", None)
    # class_to_idx may also have several names for one label
    if isinstance(labels, dict) and labels and len(set(labels.values())) == len(labels):
        return {int(label): str(name) for name, label in labels.items()}
    return dict(enumerate(map(str, classes or [])))
