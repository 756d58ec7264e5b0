"""ImageData: a source of images made into batches of three splits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from litcnn.data.augment import Augment
from litcnn.data.loader import BatchLoader, Place
from litcnn.data.sources import Arrays, Source, Split


class Part(NamedTuple):
    """A split: the arrays it lies in, and the indices (int64, ascending) of its images there."""

    arrays: Arrays
    indices: np.ndarray


class ImageData(LightningDataModule):
    """Train, validation and test batches of a source: uint8 images (N, C, H, W) and int64 labels (N,).

    The validation images are cut from the training set by a seeded, stratified split, unless the source has its own.
    The test split is left alone: nothing but `test` and `predict` reads it.

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
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: 1 or more images a step are needed")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction}: a fraction of 0 to below 1 is needed, such as 0.1")
        if (mean is None) != (std is None):
            raise ValueError("data.mean and data.std go together: give both, or neither to have them measured")
        self.source = source
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.augment = augment
        self.mean = mean
        self.std = std
        self.seed = seed
        self.split_seed = split_seed
        self._parts: dict[Split, Part | None] = {}
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
        needed: Split = {"fit": "train", "validate": "val"}.get(stage, "test")  # type: ignore[assignment]
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

    def predict_dataloader(self) -> BatchLoader:
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
        split, without its validation images and before augmentation."""
        if self.mean is not None and self.std is not None:
            return list(self.mean), list(self.std)
        if self._measured is None:
            train = self.part("train")
            assert train is not None
            self._measured = _measure(train.arrays.images, train.indices)
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
        if train is None or val is not None or self.val_fraction == 0:
            return train, val
        kept, held_out = stratified_split(train.arrays.labels.numpy(), self.val_fraction, self.split_seed)
        return Part(train.arrays, kept), Part(train.arrays, held_out)

    def _loader(self, split: Split) -> BatchLoader:
        part = self.part(split)
        assert part is not None and self.trainer is not None
        training = split == "train"
        return BatchLoader(
            part.arrays.images,
            part.arrays.labels,
            self.batch_size,
            indices=part.indices,
            shuffle=training,
            augment=self.augment if training else (),
            seed=self.seed,
            device=self.trainer.strategy.root_device,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            place=self._place_in_fit if training else (lambda: (0, 0)),
        )

    def _place_in_fit(self) -> Place:
        """The Trainer's own counters, right after a resume too: (epoch, batches of it that are done)."""
        assert self.trainer is not None
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


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


def _measure(images: Tensor, indices: np.ndarray) -> tuple[list[float], list[float]]:
    """Per channel mean and standard deviation, in chunks: memory stays small for memory-mapped images."""
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in np.array_split(indices, -(-len(indices) // 1024)):
        pixels = images[torch.from_numpy(chunk)].float() / 255  # (n, C, H, W)
        total += pixels.double().mean((2, 3)).sum(0)
        squares += pixels.double().square().mean((2, 3)).sum(0)
    mean = total / len(indices)
    std = (squares / len(indices) - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), std.tolist()
