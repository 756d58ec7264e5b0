"""Any map-style dataset of (image, label): torchvision's or your own."""

import operator
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .base import Arrays, Source, Split
from .pixels import fit, to_pil, to_rgb
from .progress import SMALL, progress_bar

BATCH = 64

# Images of one batch, their labels as the dataset gives them, and what is wrong with the first that is wrong.
Batch = tuple[Tensor, list[Any], str | None]


class TorchDataset(Source):
    """Wraps datasets as `torch.utils.data` knows them, one a split, given by class path.

    Each is read once, by worker processes, into memory; it stays there until the program ends. An image may be a PIL
    image of any mode, or a tensor or array: uint8, or float from 0 to 1; (H, W), (C, H, W) or (H, W, C) with one,
    three or four channels. It becomes RGB, its shorter side is resized to `image_size`, its centre cropped. Give the
    datasets no random transform: each image is drawn from them once.

    Args:
        train: for example `{class_path: torchvision.datasets.FashionMNIST, init_args: {root: data, download: true}}`.
        test: the test split, the same way (there with `train: false`).
        val: the validation split; without it, it is cut from train.
        class_names: by label; else `train.classes`, else "0", "1", … up to the largest label of train.
        num_workers: processes that read.
        image_size: height and width of every image, in pixels.
    """

    def __init__(
        self,
        # Not Dataset[Any]: jsonargparse 4.53 does not look into the arguments of a subclass of a subscripted type.
        train: Dataset,  # type: ignore[type-arg]
        test: Dataset | None = None,  # type: ignore[type-arg]
        val: Dataset | None = None,  # type: ignore[type-arg]
        class_names: list[str] | None = None,
        num_workers: int = 2,
        image_size: int = 32,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size {image_size} is not a size in pixels: choose 1 or more, for example 32.")
        if num_workers < 0:
            raise ValueError(f"num_workers {num_workers} is negative: choose 0 or more.")
        self.datasets: dict[str, Any] = {"train": train, "test": test, "val": val}
        self.num_workers = num_workers
        self.image_size = image_size
        names = class_names or getattr(train, "classes", None)
        self._class_names = None if names is None else [str(name) for name in names]
        self._arrays: dict[str, Arrays] = {}
        for split, dataset in self.datasets.items():
            if dataset is not None and not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
                kind = type(dataset).__name__
                raise ValueError(f"{split}: {kind} has no __len__ or __getitem__: a map-style dataset is needed.")

    @property
    def class_names(self) -> list[str]:
        if self._class_names is None:
            labels = self._read("train").labels
            self._class_names = [str(label) for label in range(int(labels.max()) + 1)]
        return list(self._class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    def prepare(self) -> None:
        """Read the training split, so that what is wrong with it is said at once."""
        self.load("train")

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, 3, image_size, image_size) and int64 labels, in memory; None where no dataset was given.

        Raises ValueError, naming split and index, for an image or label that is none.
        """
        if self.datasets[split] is None:
            return None
        arrays = self._read(split)
        outside = (arrays.labels >= len(self.class_names)).nonzero()
        if len(outside):
            index = int(outside[0])
            raise ValueError(
                f"{split}[{index}] has label {int(arrays.labels[index])}, outside 0..{len(self.class_names) - 1}, "
                "the labels of the classes. Correct the dataset or `class_names`."
            )
        return arrays

    def _read(self, split: Split) -> Arrays:
        if split in self._arrays:
            return self._arrays[split]
        dataset = self.datasets[split]
        count = len(dataset)
        if count == 0:
            raise ValueError(f"{split}: {type(dataset).__name__} is empty.")
        loader: DataLoader[Any] = DataLoader(
            _Pixels(dataset, self.image_size),
            batch_size=BATCH,
            collate_fn=_collate,
            num_workers=self.num_workers if count >= SMALL else 0,
        )
        images = torch.empty((count, *self.image_shape), dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.int64)
        first = 0
        with progress_bar(f"Reading {type(dataset).__name__} ({split})", count) as advance:
            for batch, batch_labels, problem in loader:
                if problem:
                    raise ValueError(f"{split}{problem}")
                images[first : first + len(batch)] = batch
                for index, label in enumerate(batch_labels, start=first):
                    labels[index] = _label(label, f"{split}[{index}]")
                first += len(batch)
                advance(len(batch))
        self._arrays[split] = Arrays(images, labels)
        return self._arrays[split]


class _Pixels(Dataset[tuple[NDArray[np.uint8], Any, str | None]]):
    """The dataset with its images as uint8 (3, size, size). What goes wrong is returned: an exception that crosses a
    worker's border arrives with a page of traceback around it."""

    def __init__(self, dataset: Any, size: int) -> None:
        self.dataset = dataset
        self.size = size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], Any, str | None]:
        try:
            image, label = self.dataset[index]
            return fit(to_rgb(to_pil(image)), self.size), label, None
        except Exception as error:  # the user's dataset may raise anything
            empty = np.zeros((3, self.size, self.size), dtype=np.uint8)
            return empty, None, f"[{index}] cannot be used: {type(error).__name__}: {error}"


def _collate(items: list[tuple[NDArray[np.uint8], Any, str | None]]) -> Batch:
    images, labels, problems = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), list(labels), next(filter(None, problems), None)


def _label(label: Any, where: str) -> int:
    try:
        value = operator.index(label)
    except TypeError:
        value = -1
    if value < 0:
        raise ValueError(f"{where} has label {label!r}: labels must be the integers 0, 1, 2, …")
    return value
