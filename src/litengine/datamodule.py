"""ImageData: a source of images made into batches of three splits."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from litengine.data.augment import Augment
from litengine.data.loader import BatchLoader, Place
from litengine.data.sources import Arrays, Shards, Source, Split
from litengine.data.sources.histogram import histogram, moments

NEEDED: dict[str, Split] = {"fit": "train", "validate": "val", "test": "test"}
BATCHES_AHEAD = 2
MEASURED_BYTES = 2**31  # of pixels, for statistics: their mean is that of all to some three digits
AT_ONCE = 2**24  # bytes of them


class Part(NamedTuple):
    """A split: the arrays it lies in, and the indices (int64, ascending) of its images there."""

    arrays: Arrays
    indices: np.ndarray


class ImageData(LightningDataModule):
    """Train, validation and test batches of a source: uint8 images (N, C, H, W) and int64 labels (N,).

    The validation images are cut from the training set by a seeded, stratified split, or are one of several such folds,
    unless the source has its own.
    The test split is left alone: nothing but `test` reads it.

    On a GPU the arrays of a split lie there whole where they take a quarter of its free memory or less when the first
    loader over them is made (CIFAR-10: 154 MB); else batches are gathered in host memory by a thread, two ahead of the
    one in use. Every process keeps a copy on its own GPU, and it stays there as long as this object; nothing is spread
    over several GPUs, or decoded while training.

    Args:
        source: where the images come from.
        batch_size: images a step, over all processes together.
        val_fraction: part of the training set held out for validation, 0 to below 1. With 0, training uses every
            image and keeps the last weights.
        augment: random changes to training batches, one after the other.
        mean: of each channel, in units of 0..1; measured on the training split where not given.
        std: standard deviation of each channel, likewise.
        seed: of order and augmentation.
        split_seed: of the validation split; apart from `seed`, so that runs of several seeds hold out the same images.
        folds: cuts the training set into so many parts, class by class, of which one is held out for validation;
            `val_fraction` is not used then.
        fold: which of the parts, 0 to `folds` - 1.

    Raises:
        ValueError: for a setting that cannot work; in `setup` for a split that is missing, a label that is no class.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        augment: Sequence[Augment] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: 1 or more images a step are needed")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction}: a fraction of 0 to below 1 is needed, such as 0.1")
        if (mean is None) != (std is None):
            raise ValueError("data.mean and data.std go together: give both, or neither to have them measured")
        if folds is not None and folds < 2:
            raise ValueError(f"data.folds is {folds}: 2 or more parts are needed, or null for none")
        if not 0 <= fold < (folds or 1):
            allowed = f"0 to {folds - 1} are allowed" if folds else "it needs data.folds, the number of parts"
            raise ValueError(f"data.fold is {fold}: {allowed}")
        self.source = source
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.augment = augment
        self.mean = mean
        self.std = std
        self.seed = seed
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self._parts: dict[Split, Part | None] = {}
        self._placed: dict[tuple[int, torch.device], Arrays] = {}
        self._measured: tuple[list[float], list[float]] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label."""
        return self.source.class_names

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        self.source.prepare()  # for machines without the process that prepared; returns at once where it is done
        channels = self.source.image_shape[0]
        for name, given in {"mean": self.mean, "std": self.std}.items():
            if given is not None and len(given) != channels:
                raise ValueError(f"data.{name} has {len(given)} numbers, but the images have {channels} channels")
        needed = NEEDED[stage]
        if self.part(needed) is None:
            raise ValueError(
                f"{type(self.source).__name__} has no {needed} images"
                + (f" with data.val_fraction {self.val_fraction}" if needed == "val" else "")
            )

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        return self._loader("val") if self.part("val") else []

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    def part(self, split: Split) -> Part | None:
        """A split, loaded at the first call; None where there is none."""
        if split not in self._parts:
            if split == "test":
                self._parts["test"] = self._whole("test")
            else:
                self._parts["train"], self._parts["val"] = self._train_and_val()
        return self._parts[split]

    def sizes(self) -> dict[str, int]:
        """The number of images in each split loaded so far."""
        return {split: len(part.indices) for split, part in self._parts.items() if part}

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in units of 0..1: as given, or measured on the training
        split, without its validation images and before augmentation. Of more than 2 GiB of pixels so many are read,
        evenly spread. What the source knows already is not measured again."""
        if self.mean is not None and self.std is not None:
            return list(self.mean), list(self.std)
        if self._measured is None:
            train = self.part("train")
            assert train is not None
            known = train.arrays.statistics if len(train.indices) == len(train.arrays.labels) else None
            self._measured = known or _measure(train.arrays.images, train.indices)
        return self._measured

    def _whole(self, split: Split) -> Part | None:
        arrays = self.source.load(split)
        if arrays is None:
            return None
        if len(arrays.labels) == 0:
            raise ValueError(f"{type(self.source).__name__}: the {split} split is empty")
        smallest, largest = int(arrays.labels.min()), int(arrays.labels.max())
        if smallest < 0 or largest >= len(self.class_names):
            raise ValueError(
                f"{type(self.source).__name__}: the labels of the {split} split run from {smallest} to {largest}, "
                f"but there are {len(self.class_names)} classes: labels 0 to {len(self.class_names) - 1} are allowed"
            )
        return Part(arrays, np.arange(len(arrays.labels)))

    def _train_and_val(self) -> tuple[Part | None, Part | None]:
        train, val = self._whole("train"), self._whole("val")
        if self.folds and val is not None:
            raise ValueError(
                f"{type(self.source).__name__} has validation images of its own, so there is nothing to cut into "
                f"data.folds {self.folds}: leave data.folds out"
            )
        if train is None or val is not None or (self.val_fraction == 0 and not self.folds):
            return train, val
        labels = train.arrays.labels.numpy()
        if self.folds:
            kept, held_out = stratified_fold(labels, self.class_names, self.folds, self.fold, self.split_seed)
        else:
            kept, held_out = stratified_split(labels, self.val_fraction, self.split_seed)
        return Part(train.arrays, kept), Part(train.arrays, held_out)

    def _loader(self, split: Split) -> BatchLoader:
        part = self.part(split)
        assert part is not None and self.trainer is not None
        device = self.trainer.strategy.root_device
        arrays = self._on(device, part.arrays)
        on_host = arrays.images.device.type == "cpu"
        training = split == "train"
        return BatchLoader(
            arrays.images,
            arrays.labels,
            self.batch_size,
            indices=part.indices,
            shuffle=training,
            augment=self.augment if training else (),
            seed=self.seed,
            device=device,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            place=self._place_in_fit if training else (lambda: (0, 0)),
            prefetch=BATCHES_AHEAD if device.type == "cuda" and on_host else 0,
        )

    def _on(self, device: torch.device, arrays: Arrays) -> Arrays:
        """The arrays on the device where there is room for them, else as they are; asked once, so that training and
        validation images, which lie in the same arrays, share one copy."""
        key = (id(arrays.images), device)  # kept alive by `_parts`
        if key not in self._placed:
            images, labels = arrays.images, arrays.labels
            if isinstance(images, Tensor) and images.nbytes + labels.nbytes <= free_memory(device) / 4:
                self._placed[key] = arrays._replace(images=images.to(device), labels=labels.to(device))
            else:
                self._placed[key] = arrays
        return self._placed[key]

    def _place_in_fit(self) -> Place:
        """The Trainer's own counters, right after a resume too: (epoch, batches of it that are done)."""
        assert self.trainer is not None
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


def free_memory(device: torch.device) -> int:
    """Bytes that a GPU has free; 0 for any other device, where data has nothing to gain from a move."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `fraction` of every class off: the indices (int64, ascending) that stay, and those cut off.

    Raises:
        ValueError: where a class has too few images to stand on both sides.
    """
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    try:
        kept, cut_off = train_test_split(indices, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ValueError(
            f"data.val_fraction {fraction} of {len(labels)} training images cannot be held out class by class: {error}"
        ) from error
    return np.sort(kept), np.sort(cut_off)


def stratified_fold(
    labels: np.ndarray, class_names: Sequence[str], folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the images into `folds` parts, every class evenly: the indices (int64, ascending) outside part `fold`, and
    those in it.

    Raises:
        ValueError: where a class has fewer images than there are parts.
    """
    from sklearn.model_selection import StratifiedKFold

    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        rarest = class_names[present[counts.argmin()]]
        most = f"{counts.min()} or fewer" if counts.min() > 1 else "no number of"
        raise ValueError(
            f"data.folds is {folds}, but there are only {counts.min()} training images of {rarest!r}, and every fold "
            f"needs one: {most} folds are possible"
        )
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    kept, held_out = next(part for index, part in enumerate(parts) if index == fold)
    return kept, held_out


def _measure(images: Tensor | Shards, indices: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, a few images at a time: memory stays small."""
    bytes_each = math.prod(images.shape[1:])
    a_few, most = max(1, AT_ONCE // bytes_each), max(1, MEASURED_BYTES // bytes_each)
    if len(indices) > most:
        indices = indices[np.linspace(0, len(indices) - 1, most).astype(np.int64)]
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for first in range(0, len(indices), a_few):
        counts += histogram(images[torch.from_numpy(indices[first : first + a_few])])
    return moments(counts)
