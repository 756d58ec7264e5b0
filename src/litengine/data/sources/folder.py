"""Your own images, in one folder a class."""

import errno
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .base import Arrays, Source, Split
from .cache import build_once, drop_rows, is_whole, map_array
from .decode import decode_files
from .names import Names, write_names
from .tree import Item, Tree, fingerprint, scan

log = logging.getLogger(__name__)

# Part of every cache key: raise it when the same files would give other bytes than before.
FORMAT = 2
LISTED = 20


class ImageFolder(Source):
    """Images of any size and mode in `root/<class>/…` or `root/train|val|test/<class>/…`.

    They are decoded once, in parallel, into one uint8 array a split under `cache_dir`, and memory-mapped from there:
    the data may be larger than memory. The cache is made again when any file's name, size or time changes.

    An image is turned upright by its EXIF orientation and converted to RGB (alpha is dropped, as torchvision does
    it; 16-bit grey is scaled to 8). Its shorter side is resized to `image_size`, and its centre cropped. Class
    folders are read recursively, links are followed, hidden files are ignored.

    Args:
        root: the folder. With train/ in it, val/ and test/ are optional, and the class names are those of train/.
        image_size: height and width of every image, in pixels.
        test_fraction: of a root without splits, this part of each class is the test split; always the same images.
            0 for none.
        skip_damaged: leave out files that cannot be decoded or are no images, instead of stopping.
        cache_dir: where the decoded arrays are kept.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        test_fraction: float = 0.1,
        skip_damaged: bool = False,
        cache_dir: str = "data/cache",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size {image_size} is not a size in pixels: choose 1 or more, for example 32.")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction {test_fraction} is not a fraction: choose 0 or more and less than 1.")
        self.root = Path(root).expanduser()
        self.image_size = image_size
        self.test_fraction = test_fraction
        self.skip_damaged = skip_damaged
        self.cache_dir = Path(cache_dir).expanduser()
        self._ready: tuple[Path, dict[str, Any]] | None = None  # the cache directory and its index

    @property
    def class_names(self) -> list[str]:
        return list(self._open()[1]["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    def prepare(self) -> None:
        """Decode the images where the cache does not have them yet.

        Raises ValueError where the folder does not hold at least two classes with images, where files are damaged or
        foreign (all in one message), or where it changes meanwhile; OSError where something cannot be read or
        written. Nothing half written remains.
        """
        mark, has_splits = fingerprint(self.root)
        slot, key = self._name(mark, has_splits)
        try:
            directory = build_once(self.cache_dir, slot, key, lambda directory: self._write(mark, directory))
        except OSError as error:
            if error.errno is None:  # it has its message
                raise
            raise OSError(
                f"Cannot write the image cache in {self.cache_dir.absolute()}: {error.strerror}. Make room there, or "
                "set --data.source.cache_dir to another place."
            ) from error
        self._ready = (directory, json.loads((directory / "index.json").read_text()))
        self._report(self._ready[1]["skipped"])

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, 3, image_size, image_size), memory-mapped (writing into it changes no file), labels and paths."""
        directory, index = self._open()
        if split not in index["splits"]:
            return None
        try:
            labels = torch.from_numpy(np.load(directory / f"{split}_labels.npy"))
            paths = Names(directory / f"{split}_paths", self.root)
            return Arrays(map_array(directory / f"{split}_images.npy"), labels, paths)
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.root} has changed, and another run prepared it anew: this run's cache {directory} is gone."
            ) from error

    def location(self) -> Path:
        return self._open()[0]

    def _name(self, mark: str, has_splits: bool) -> tuple[str, str]:
        """The cache's slot (this folder with these settings) and key (these files)."""
        fraction = 0.0 if has_splits else float(self.test_fraction)
        settings = f"{self.root.resolve()}\0{self.image_size}\0{fraction}"
        slot = hashlib.sha256(settings.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        key = hashlib.sha256(f"{FORMAT}\0{mark}".encode()).hexdigest()[:16]
        return f"{self.root.resolve().name}-{slot}", key

    def _open(self) -> tuple[Path, dict[str, Any]]:
        """The cache directory and its index; found by another look where another process prepared it."""
        if self._ready is None:
            directory = self.cache_dir / "-".join(self._name(*fingerprint(self.root)))
            if not is_whole(directory):
                raise ValueError(f"The images of {self.root} are not in {self.cache_dir}: call prepare() first.")
            self._ready = (directory, json.loads((directory / "index.json").read_text()))
        return self._ready

    def _write(self, mark: str, directory: Path) -> None:
        """Fill the cache: <split>_images.npy, <split>_labels.npy, <split>_paths, and the class names in index.json."""
        tree = scan(self.root)
        splits = dict(tree.splits)
        if not tree.has_splits and self.test_fraction > 0:
            splits["train"], splits["test"] = _cut_off_test(tree, self.test_fraction)
        count = sum(len(items) for items in splits.values())
        if shutil.disk_usage(directory).free < count * 3 * self.image_size**2:
            raise OSError(errno.ENOSPC, f"{count:,} images need {count * 3 * self.image_size**2 / 1e9:.1f} GB")

        skipped = [f"{path}: is not an image in a class folder" for path in tree.foreign]
        unopened: list[str] = []
        kept: dict[str, list[Item]] = {}
        for split, items in splits.items():
            images = directory / f"{split}_images.npy"
            files = [str(self.root / path) for path, _ in items]
            failures = decode_files(files, images, self.image_size, f"Decoding {self.root.name} ({split})")
            for row, reason, opened in failures:
                (skipped if opened else unopened).append(f"{items[row][0]}: {reason}")
            failed = {row for row, _, _ in failures}
            kept[split] = [item for row, item in enumerate(items) if row not in failed]
            if failed and kept[split] and self.skip_damaged:
                drop_rows(images, sorted(failed))
            np.save(directory / f"{split}_labels.npy", np.array([label for _, label in kept[split]], dtype=np.int64))
            write_names((path for path, _ in kept[split]), directory / f"{split}_paths")

        if fingerprint(self.root)[0] != mark:
            raise ValueError(f"{self.root} changed while its images were read: run it again once it is at rest.")
        if unopened:
            raise OSError(f"Cannot read {len(unopened)} files in {self.root}:\n{_list(unopened)}")
        if not self.skip_damaged:
            self._report(skipped)
        self._check_classes_left(tree.class_names, kept)
        index = {"class_names": tree.class_names, "splits": list(kept), "skipped": skipped}
        (directory / "index.json").write_text(json.dumps(index))

    def _report(self, skipped: list[str]) -> None:
        if not skipped:
            return
        if not self.skip_damaged:
            raise ValueError(
                f"{self.root} holds {len(skipped)} damaged or foreign files:\n{_list(skipped)}\nRepair or remove "
                "them, or set `skip_damaged: true` to leave them out."
            )
        log.warning("%s: %d damaged or foreign files skipped", self.root, len(skipped))

    def _check_classes_left(self, class_names: list[str], kept: dict[str, list[Item]]) -> None:
        for label, name in enumerate(class_names):
            if all(label != other for _, other in kept["train"]):
                raise ValueError(f"No image of the class {name!r} in {self.root} can be decoded: repair or remove it.")
        for split, items in kept.items():
            if not items:
                raise ValueError(f"No image of {self.root / split} can be decoded: repair or remove it.")


def _cut_off_test(tree: Tree, fraction: float) -> tuple[list[Item], list[Item]]:
    """(train, test): of each class the `fraction` whose paths have the smallest hash; one at least, never all.

    By hash and not by a shuffle, so that images added later move almost none between the splits.
    """
    train: list[Item] = []
    test: list[Item] = []
    classes: list[list[Item]] = [[] for _ in tree.class_names]
    for item in tree.splits["train"]:
        classes[item[1]].append(item)
    for items in classes:
        count = min(max(1, round(fraction * len(items))), len(items) - 1)
        by_hash = sorted(items, key=lambda item: hashlib.sha256(item[0].encode("utf-8", "surrogateescape")).digest())
        chosen = set(by_hash[:count])
        test += [item for item in items if item in chosen]
        train += [item for item in items if item not in chosen]
    return train, test


def _list(lines: list[str]) -> str:
    more = [f"… and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n".join(f"  {line}" for line in [*lines[:LISTED], *more])
