"""ImageData: which images are trained on, in what batches, and how they are augmented."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torchvision.transforms.v2 import Transform

from litcnn.augment import PerImage
from litengine.data import Augment, BatchLoader, Source, Split, stratified_fold, stratified_split
from litengine.datamodule import ClassificationData, Subset


class ImageData(ClassificationData):
    """Train, validation and test batches of a source: uint8 images (N, C, H, W) and int64 labels (N,).

    The validation images are held out of the training set by a seeded, stratified split, or are one of several such
    folds, unless the source has validation images of its own. Only `test` reads the test split.

    Args:
        source: the origin of the images.
        batch_size: images in a batch, over all processes together.
        val_fraction: fraction of the training set held out for validation, 0 to below 1. With 0, training uses every
            image and keeps the last weights.
        sampling: `all`: an epoch has every training image once. `balanced`: an epoch draws as many images, with
            replacement, every class equally often.
        augment: random changes to training batches, applied one after the other: those of `litcnn.augment`, or any
            transform of torchvision.transforms.v2, which changes one image at a time.
        mean: mean of each channel, in units of 0..1; measured on the training images if not given.
        std: standard deviation of each channel, likewise.
        seed: of order and augmentation.
        split_seed: of the validation split. It is separate from `seed`, so that runs of several seeds hold out the
            same images.
        folds: cuts the training set into this many stratified parts, and holds one out for validation;
            `val_fraction` is not used then.
        fold: the part that is held out, 0 to `folds` - 1.

    Raises:
        ValueError: for a setting that cannot work.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        sampling: Literal["all", "balanced"] = "all",
        augment: Sequence[Augment | Transform] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__(source, batch_size, mean, std, seed)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction}: choose a fraction of 0 to below 1, such as 0.1")
        if folds is not None and folds < 2:
            raise ValueError(f"data.folds is {folds}: choose 2 or more parts, or null for none")
        if not 0 <= fold < (folds or 1):
            allowed = f"choose 0 to {folds - 1}" if folds else "it needs data.folds, the number of parts"
            raise ValueError(f"data.fold is {fold}: {allowed}")
        self.val_fraction = val_fraction
        self.sampling = sampling
        self.augment = [each if isinstance(each, Augment) else PerImage(each) for each in augment]
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold

    def split(self, name: Split) -> Subset | None:
        """The images of "train", "val" or "test"; called once for each split that is needed."""
        train, val = (None, None) if name == "test" else (self.source_split("train"), self.source_split("val"))
        if self.folds and val is not None:
            raise ValueError(
                f"{type(self.source).__name__} has validation images of its own, so that data.folds {self.folds} has "
                "nothing to cut: leave data.folds out"
            )
        if train is None or val is not None or not (self.folds or self.val_fraction):
            return self.source_split(name)
        if self.folds:
            kept, held_out = stratified_fold(
                train.labels, self.class_names, self.folds, self.fold, self.split_seed, train.groups
            )
        else:
            kept, held_out = stratified_split(train.labels, self.val_fraction, self.split_seed, train.groups)
        return train.select(kept if name == "train" else held_out)

    def train_dataloader(self) -> BatchLoader:
        probabilities = None
        if self.sampling == "balanced" and (train := self.subset("train")):
            counts = self.class_counts()
            probabilities = 1 / counts[train.labels] / np.count_nonzero(counts)
        return self.loader("train", shuffle=True, probabilities=probabilities, augment=self.augment)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        return self.loader("val") if self.subset("val") else []

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test")

    def why_missing(self, stage: str) -> str:
        return f" with data.val_fraction {self.val_fraction}" if stage == "validate" else ""
