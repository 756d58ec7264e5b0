"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32x32 pixels, downloaded once."""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock

from .base import Arrays, Source, Split
from .download import download

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class CIFAR10(Source):
    """Ten classes, 50,000 images for training and 10,000 for testing (Krizhevsky 2009).

    Format, md5 sums and address are torchvision's. The download is ours, because torchvision's has no time-out, tries
    once, and leaves half an archive under the final name.

    Args:
        root: the folder that holds, or will hold, the archive and the files in it.
        url: a mirror of the archive; None means the address of its author.
    """

    file_arguments = ("root",)
    network_arguments = ("url",)
    torchvision_class: ClassVar[str] = "CIFAR10"

    def __init__(self, root: str = "data", url: str | None = None) -> None:
        self.root = Path(root).expanduser()
        self.url = url

    @property
    def class_names(self) -> list[str]:
        return list(CIFAR10_CLASSES)  # torchvision knows them only after the download

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, 32, 32)

    def prepare(self) -> None:
        """Download, check and unpack the archive if its files are missing or damaged.

        Raises OSError if it cannot be downloaded or written, ValueError if it is another file than expected.
        """
        if self._is_intact():
            return
        from torchvision.datasets.utils import check_integrity, extract_archive

        dataset = self._dataset_class()
        archive = self.root / dataset.filename
        remedy = (
            f"Put the archive at {archive.absolute()}, or name a mirror with --data.source.url. "
            "`--config configs/digits.yaml` needs no download."
        )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{dataset.filename}.lock"):
                if self._is_intact():  # another process was faster
                    return
                if not check_integrity(archive, dataset.tgz_md5):
                    download(self.url or dataset.url, archive, dataset.tgz_md5, remedy)
                shutil.rmtree(self.location(), ignore_errors=True)  # cut short while unpacking
                extract_archive(archive, self.root)
        except OSError as error:
            if error.errno is None:  # it has its message
                raise
            where = self.root.absolute()
            raise OSError(f"Cannot write {dataset.filename} or its files in {where}: {error.strerror}.") from error

    def load(self, split: Split) -> Arrays | None:
        """uint8 (50000 or 10000, 3, 32, 32) and int64 labels; None for "val"."""
        if split == "val":
            return None
        dataset = self._read(train=split == "train")
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # (N, H, W, C) -> (N, C, H, W)
        return Arrays(images, torch.tensor(dataset.targets, dtype=torch.int64))

    def location(self) -> Path:
        return self.root / str(self._dataset_class().base_folder)

    def _dataset_class(self) -> Any:
        from torchvision import datasets  # slow to import

        return getattr(datasets, self.torchvision_class)

    def _read(self, train: bool) -> Any:
        try:
            return self._dataset_class()(self.root, train=train)
        except RuntimeError as error:  # torchvision checks every md5
            where = self.root.absolute()
            raise ValueError(
                f"{self.torchvision_class} is not in {where}, or damaged: call prepare() first."
            ) from error

    def _is_intact(self) -> bool:
        from torchvision.datasets.utils import check_integrity

        dataset = self._dataset_class()
        files = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        return all(check_integrity(self.location() / name, md5) for name, md5 in files)


class CIFAR100(CIFAR10):
    """The same in a hundred classes; `class_names` are known once `prepare()` has run."""

    torchvision_class = "CIFAR100"

    @cached_property
    def class_names(self) -> list[str]:
        return list(self._read(train=False).classes)
