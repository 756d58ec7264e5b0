"""ClassificationData: the base class of the project's data module."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from litengine.data import Arrays, Augment, BatchLoader, Shards, Source, Split
from litengine.data.sources.histogram import histogram, moments
from litengine.data.splits import evenly_mixed

NEEDED: dict[str, Split] = {"fit": "train", "validate": "val", "test": "test"}
BATCHES_AHEAD = 2
MEASURED_BYTES = 2**31  # of pixels: their statistics are those of all pixels to some three digits
CHUNK_BYTES = 2**24


class Subset(NamedTuple):
    """Some images of a split: its arrays, and the indices (int64, ascending) of the images that belong to it."""

    arrays: Arrays
    indices: np.ndarray

    def select(self, indices: np.ndarray) -> "Subset":
        """The images at these positions of this subset."""
        return Subset(self.arrays, self.indices[indices])

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,)."""
        labels: np.ndarray = self.arrays.labels.numpy()[self.indices]
        return labels

    @property
    def groups(self) -> np.ndarray | None:
        """int64 (n,): images of one group must not lie in two splits; None if each may."""
        return None if self.arrays.groups is None else self.arrays.groups.numpy()[self.indices]


class ClassificationData(LightningDataModule):
    """Base class of the project's data: arrays, loaders, device placement and statistics.

    The contract of a subclass:

    - `__init__` passes source, batch size, statistics and seed to this class; its other arguments are free.
    - `split(name)` returns the images of "train", "val" or "test", or None if there are none. It is called once for
      each split that is needed; only `test` asks for "test". `self.source_split(name)` is what the source has.
    - The three dataloader methods return `self.loader(name, …)`. Their batches are uint8 images (n, C, H, W) and int64
      labels (n,) on the training device. Order and augmentation are functions of (seed, epoch, batch), so that a killed
      run resumes in the middle of an epoch, and several processes see slices of the same batches.

    On a GPU a split is copied to the GPU if it needs at most a quarter of the free memory (CIFAR-10: 154 MB). Otherwise
    a thread gathers batches in host memory, two ahead of the one in use.

    Args:
        source: the origin of the images.
        batch_size: images in a batch, over all processes together.
        mean, std: of each channel, in units of 0..1; measured on the training images if not given.
        seed: of order and augmentation.

    Raises:
        ValueError: for a setting that cannot work; in `setup` for a missing split, or a label that is not a class.
    """

    default_source: ClassVar[str] = "litengine.data.Digits"  # of the command line

    def __init__(
        self,
        source: Source,
        batch_size: int = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: choose 1 or more images")
        if (mean is None) != (std is None):
            raise ValueError("data.mean and data.std go together: give both, or neither to have them measured")
        self.source = source
        self.batch_size = batch_size
        self.mean = mean
        self.std = std
        self.seed = seed
        self._from_source: dict[Split, Subset | None] = {}
        self._subsets: dict[Split, Subset | None] = {}
        self._on_device: dict[tuple[int, torch.device], Arrays] = {}
        self._measured: tuple[list[float], list[float]] | None = None

    def split(self, name: Split) -> Subset | None:
        """The images of a split, or None; a project overrides this."""
        return self.source_split(name)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label."""
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.source.image_shape

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        self.source.prepare()  # on machines without the process that prepared; returns at once if nothing is to do
        for name, given in {"mean": self.mean, "std": self.std}.items():
            if given is not None and len(given) != self.image_shape[0]:
                raise ValueError(
                    f"data.{name} has {len(given)} numbers, but the images have {self.image_shape[0]} channels"
                )
        if stage == "fit":
            self.subset("val")
        if self.subset(NEEDED[stage]) is None:
            raise ValueError(f"{type(self.source).__name__} has no {NEEDED[stage]} images{self.why_missing(stage)}")

    def why_missing(self, stage: str) -> str:
        """What a project can add to the error about a missing split."""
        return ""

    def subset(self, name: Split) -> Subset | None:
        """`split(name)`, called at the first use only."""
        if name not in self._subsets:
            self._subsets[name] = self.split(name)
        return self._subsets[name]

    def sizes(self) -> dict[str, int]:
        """The number of images in each split that was used so far."""
        names: list[Split] = ["train", "val", "test"]
        subsets = {name: self._subsets.get(name) for name in names}
        return {name: len(subset.indices) for name, subset in subsets.items() if subset}

    def source_split(self, name: Split) -> Subset | None:
        """What the source has under this name, loaded at the first use; None if it has none.

        Raises:
            ValueError: if it is empty, or has a label that is not a class.
        """
        if name not in self._from_source:
            arrays = self.source.load(name)
            if arrays is not None:
                self._check_labels(name, arrays.labels)
            self._from_source[name] = None if arrays is None else Subset(arrays, np.arange(len(arrays.labels)))
        return self._from_source[name]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in units of 0..1: as given, or measured.

        They are measured on the training images before augmentation, on at most 2 GiB of evenly spread pixels.
        """
        if self.mean is not None and self.std is not None:
            return list(self.mean), list(self.std)
        if self._measured is None:
            train = self._needed("train")
            known = train.arrays.statistics if len(train.indices) == len(train.arrays.labels) else None
            self._measured = known or _measure(train.arrays.images, train.indices)
        return self._measured

    def first_images(self, count: int, device: torch.device) -> Tensor:
        """uint8 (n, C, H, W): the first `count` training images."""
        train = self._needed("train")
        return train.arrays.images[torch.from_numpy(train.indices[:count])].to(device)

    def class_counts(self) -> np.ndarray:
        """int64 (classes,): the training images of each class."""
        return np.bincount(self._needed("train").labels, minlength=len(self.class_names))

    def loader(
        self,
        name: Split,
        *,
        shuffle: bool = False,
        probabilities: np.ndarray | None = None,
        augment: Sequence[Augment] = (),
    ) -> BatchLoader:
        """Batches of a split. A shuffled loader is for training: it continues where a resumed run left off.

        Args:
            probabilities: of drawing each image (see `BatchLoader`).
        """
        trainer: Any = self.trainer  # mypy does not find its limits
        subset, device = self._needed(name), trainer.strategy.root_device
        arrays, indices = self._moved(subset.arrays, device), subset.indices
        gathered_on_host = device.type == "cuda" and arrays.images.device.type == "cpu"
        limits = {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
        limit = trainer.overfit_batches or limits.get(name, 1.0)
        if not shuffle and (isinstance(limit, int) or limit < 1):  # 1 is one batch, 1.0 is all
            indices = indices[evenly_mixed(subset.labels)]  # a limit takes the first batches
        return BatchLoader(
            arrays.images,
            arrays.labels,
            self.batch_size,
            indices=indices,
            shuffle=shuffle,
            probabilities=probabilities,
            augment=augment,
            seed=self.seed,
            device=device,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            position=self._position if shuffle else (lambda: (0, 0)),
            prefetch=BATCHES_AHEAD if gathered_on_host and all(each.thread_safe for each in augment) else 0,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batches of `loader` are on the device: Lightning takes longer to find that out."""
        model: Any = self.trainer and self.trainer.lightning_module  # Lightning would not ask a model with its own
        if model and type(model).transfer_batch_to_device is not LightningModule.transfer_batch_to_device:
            return model.transfer_batch_to_device(batch, device, dataloader_idx)
        if type(batch) is tuple and all(isinstance(each, Tensor) and each.device == device for each in batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _needed(self, name: Split) -> Subset:
        subset = self.subset(name)
        assert subset is not None, name
        return subset

    def _position(self) -> tuple[int, int]:
        """(epoch, batches of it that are done), by the Trainer's own counters, which a resume restores."""
        trainer: Any = self.trainer
        # with overfit_batches each epoch repeats the batches of the first one
        epoch = 0 if trainer.overfit_batches else trainer.current_epoch
        return epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _moved(self, arrays: Arrays, device: torch.device) -> Arrays:
        """The arrays on the device if there is room for them, else as they are. Decided once for each array, so that
        training and validation images, which share arrays, share one copy."""
        key, images, labels = (id(arrays.images), device), arrays.images, arrays.labels
        if key not in self._on_device:
            if isinstance(images, Tensor) and images.nbytes + labels.nbytes <= free_memory(device) / 4:
                arrays = arrays._replace(images=images.to(device), labels=labels.to(device))
            self._on_device[key] = arrays  # `_from_source` keeps the old ones alive, and so their id
        return self._on_device[key]

    def _check_labels(self, name: Split, labels: Tensor) -> None:
        source, classes = type(self.source).__name__, len(self.class_names)
        if len(labels) == 0:
            raise ValueError(f"{source}: the {name} split is empty")
        smallest, largest = int(labels.min()), int(labels.max())
        if smallest < 0 or largest >= classes:
            raise ValueError(
                f"{source}: the labels of the {name} split run from {smallest} to {largest}, but there are {classes} "
                f"classes: labels 0 to {classes - 1} are allowed"
            )


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU; 0 for other devices, on which a copy gains nothing."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _measure(images: Tensor | Shards, indices: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, a few images at a time, so that memory stays small."""
    bytes_each = math.prod(images.shape[1:])
    chunk, most = max(1, CHUNK_BYTES // bytes_each), max(1, MEASURED_BYTES // bytes_each)
    if len(indices) > most:
        indices = indices[np.linspace(0, len(indices) - 1, most).astype(np.int64)]
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for first in range(0, len(indices), chunk):
        counts += histogram(images[torch.from_numpy(indices[first : first + chunk])])
    return moments(counts)
