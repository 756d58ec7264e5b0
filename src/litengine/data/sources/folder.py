"""Your own images, in one folder a class."""

import errno
import hashlib
import json
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .base import Arrays, Source, Split, checked_size
from .cache import build_once, is_intact, map_array
from .decode import decode_batches
from .pixels import USUAL, Fit, Interpolation, Reading, Size, sides
from .progress import progress_bar
from .tree import Item, Tree, fingerprint, scan

log = logging.getLogger(__name__)

# Part of every cache: raise it when the same files would give other bytes than before.
FORMAT = 3
LISTED = 20

# The pixels of a file in an earlier cache, uint8 (3, H, W), and their digest, by its path and `Entry.about`.
Known = dict[tuple[str, str], tuple[np.ndarray, int]]


class ImageFolder(Source):
    """Images of any format, size and mode in `root/<class>/…` or `root/train|val|test/<class>/…`.

    They are decoded once, in parallel, into one uint8 array a split under `cache_dir`, and memory-mapped from there:
    the data may be larger than memory. If files are added, removed or changed, only those are decoded. The cache is
    checked against its checksums at its first use in a process, and damaged images are decoded again.

    An image is turned upright by its EXIF orientation and converted to RGB (alpha is dropped, as torchvision does it).
    By default it is resized until it covers `image_size`, and its centre cropped. Class folders are read recursively,
    links are followed. Hidden files and leftovers of systems are skipped and counted, and so are images that are
    in two splits. A cache below `root` is not read as images. A layout that is not understood is refused.

    Args:
        root: the folder. With train/ in it, val/ and test/ are optional, and the class names are those of train/.
        image_size: height and width of every image, in pixels: one number for both, or two, such as [96, 128].
        test_fraction: the part of each class that becomes the test split if the root has no splits; always the same
            images. 0 for none; 1 for all, to test a whole folder with a checkpoint.
        skip_damaged: leave out files that cannot be decoded or are not images, instead of stopping.
        cache_dir: where the decoded arrays are kept.
        grey_max: the value of white in grey images of more than 8 bits, such as 4095 for 12 bits. By default 65535, and
            images that look as if they had fewer bits, and floats, are refused.
        fit: `crop`, or `pad`: the whole image is kept, and black is added; or `squash`: both sides are resized.
        interpolation: `bilinear`, `bicubic` or `nearest`.
    """

    file_arguments: ClassVar[tuple[str, ...]] = ("root", "cache_dir")

    def __init__(
        self,
        root: str,
        image_size: Size = 32,
        test_fraction: float = 0.1,
        skip_damaged: bool = False,
        cache_dir: str = "data/cache",
        grey_max: float | None = None,
        fit: Fit = "crop",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        if not 0 <= test_fraction <= 1:
            raise ValueError(f"test_fraction {test_fraction} is not a fraction: choose a number from 0 to 1.")
        self.root = self.origin = Path(root).expanduser()
        self.image_size = checked_size(image_size)
        self.test_fraction = float(test_fraction)  # 0 and 0.0 have one cache
        self.skip_damaged = skip_damaged
        self.cache_dir = Path(cache_dir).expanduser()
        self.reading = Reading(fit, interpolation, grey_max)
        self._ready: tuple[Path, dict[str, Any]] | None = None  # the cache directory and its index

    @property
    def class_names(self) -> list[str]:
        return list(self._open()[1]["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *sides(self.image_size))

    def prepare(self) -> None:
        """Decode the images that the cache does not have yet.

        Raises ValueError if the layout of the folder is not understood, if files are damaged (all in one message), or
        if the folder changes meanwhile; OSError if the cache cannot be written. Nothing half written remains.
        """
        mark = self._fingerprint()
        slot, key = self._name(mark)
        if self._ready is not None and self._ready[0].name == f"{slot}-{key}":
            return
        try:
            directory = build_once(self.cache_dir, slot, key, partial(self._write, mark))
        except OSError as error:
            if error.errno is None:  # it has its message
                raise
            raise OSError(
                f"Cannot write the image cache in {self.cache_dir.absolute()}: {error.strerror}. Make room there, or "
                "set --data.source.cache_dir to another place."
            ) from error
        index = json.loads((directory / "index.json").read_text())
        self._refuse_damaged(index["damaged"])
        for words, count in index["notes"].items():
            _warn_once(f"{self.origin}: {count} {words}", directory.absolute())
        self._ready = (directory, index)

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, 3, H, W), memory-mapped (writing into it changes no file), labels and paths."""
        directory, index = self._open()
        if split not in index["splits"]:
            return None
        try:
            rows = np.load(directory / f"{split}.npy", mmap_mode="r")
            images = map_array(directory / f"{split}.pixels", (len(rows), *self.image_shape))
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.origin} has changed, and another run prepared it anew: this run's cache {directory} is gone."
            ) from error
        return Arrays(images, torch.from_numpy(rows["label"].astype(np.int64)), _Paths(rows["path"], self.root))

    def location(self) -> Path:
        return self._open()[0]

    def _name(self, mark: str) -> tuple[str, str]:
        """The cache's slot (this folder with these settings) and key (these files)."""
        origin = self.origin.resolve()
        settings = f"{origin}\0{self.image_size}\0{self.test_fraction}\0{self.reading.grey_max}"
        if (self.reading.fit, self.reading.interpolation) != (USUAL.fit, USUAL.interpolation):
            settings += f"\0{self.reading.fit}\0{self.reading.interpolation}"
        slot = hashlib.sha256(settings.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        key = hashlib.sha256(f"{FORMAT}\0{mark}".encode()).hexdigest()[:16]
        return f"{origin.name}-{slot}", key

    def _open(self) -> tuple[Path, dict[str, Any]]:
        """The cache directory and its index; another process may have prepared them."""
        if self._ready is None:
            directory = self.cache_dir / "-".join(self._name(self._fingerprint()))
            if not is_intact(directory):
                raise ValueError(f"The images of {self.origin} are not in {self.cache_dir}: call prepare() first.")
            self._ready = (directory, json.loads((directory / "index.json").read_text()))
        return self._ready

    def _fingerprint(self) -> str:
        """Changes with the files."""
        return fingerprint(self.root, self.cache_dir)

    def _scan(self) -> Tree:
        return scan(self.root, self.cache_dir)

    def _unit(self, item: Item) -> str:
        """Images of one unit stay in one split."""
        return item.path

    def _write(self, mark: str, directory: Path, earlier: list[Path]) -> None:
        """Fill the cache: <split>.pixels, <split>.npy with one row an image, and index.json."""
        tree = self._scan()
        splits = dict(tree.splits)
        if not tree.has_splits and self.test_fraction == 1:
            splits = {"test": splits["train"]}
        elif not tree.has_splits and self.test_fraction > 0:
            splits["train"], splits["test"] = _cut_off_test(tree, self.test_fraction, self._unit)
        count = sum(map(len, splits.values()))
        if shutil.disk_usage(directory).free < (needed := count * math.prod(self.image_shape)):
            raise OSError(errno.ENOSPC, f"{count:,} images need {needed / 1e9:.1f} GB")
        known = self._known(earlier)
        damaged = list(tree.bad)
        rows = {split: self._write_split(directory / split, items, known, damaged) for split, items in splits.items()}
        if self._fingerprint() != mark:
            raise ValueError(f"{self.origin} changed while its images were read: run it again once it is at rest.")
        self._refuse_damaged(damaged)
        missing = [f"{split} image" for split in rows if not len(rows[split])]
        if "train" in rows:
            without = np.setdiff1d(np.arange(len(tree.class_names)), rows["train"]["label"])
            missing = [*(f"training image of the class {tree.class_names[label]!r}" for label in without), *missing]
        if missing:
            raise ValueError(f"No {missing[0]} in {self.origin} can be decoded: repair or remove it.")
        notes = {"damaged files are skipped": len(damaged), **_duplicates(rows)}
        if tree.skipped:
            notes[f"entries are not images and are skipped, such as {tree.skipped[0]}"] = len(tree.skipped)
        index = {"format": FORMAT, "class_names": tree.class_names, "splits": list(splits), "damaged": damaged}
        notes = {words: count for words, count in notes.items() if count}
        (directory / "index.json").write_text(json.dumps({**index, "notes": notes}))

    def _write_split(self, target: Path, items: list[Item], known: Known, damaged: list[str]) -> np.ndarray:
        """Write the images that can be had: returns their rows, and adds the others to `damaged`."""
        new = [str(self.root / item.path) for item in items if (item.path, item.about) not in known]
        rows = []
        with (
            # not mapped: a full disk is then an OSError, and not a SIGBUS that kills the process
            target.with_name(f"{target.name}.pixels").open("wb", buffering=2**20) as file,
            progress_bar(f"Decoding {self.origin.name} ({target.name})", len(new)) as advance,
            closing(decode_batches(new, self.image_size, reading=self.reading)) as batches,
        ):
            decoded = (one for images, problems in batches for one in zip(images, problems, strict=True))
            for path, label, about in items:
                if found := known.get((path, about)):
                    (pixels, digest), problem = found, None
                else:
                    pixels, problem = next(decoded)
                    digest = _digest(pixels)
                    advance(1)
                if problem:
                    damaged.append(f"{path}: {problem}")
                else:
                    file.write(pixels.tobytes())
                    rows.append((path.encode("utf-8", "surrogateescape"), about, label, digest))
        width = max((len(path) for path, *_ in rows), default=1)
        kinds = [("path", f"S{width}"), ("about", "S42"), ("label", np.int64), ("digest", np.uint64)]
        table = np.array(rows, dtype=kinds)
        np.save(target.with_name(f"{target.name}.npy"), table)
        return table

    def _known(self, earlier: list[Path]) -> Known:
        """The images in earlier caches of the same settings whose pixels are intact."""
        known: Known = {}
        for directory in earlier:
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged cache
                index = json.loads((directory / "index.json").read_text())
                for split in index["splits"] if index["format"] == FORMAT else []:
                    rows = np.load(directory / f"{split}.npy")
                    flat = np.asarray(np.memmap(directory / f"{split}.pixels", np.uint8, "r"))  # plain: much faster
                    complete = len(flat) // (volume := math.prod(self.image_shape))  # all, unless it was cut short
                    pixels = flat[: complete * volume].reshape(complete, *self.image_shape)
                    for place, (path, about, _, digest) in enumerate(rows[:complete].tolist()):
                        if _digest(pixels[place]) == digest:
                            known[path.decode("utf-8", "surrogateescape"), about.decode()] = (pixels[place], digest)
        return known

    def _refuse_damaged(self, damaged: list[str]) -> None:
        if damaged and not self.skip_damaged:
            more = [f"… and {len(damaged) - LISTED} more"] if len(damaged) > LISTED else []
            listed = "\n".join(f"  {line}" for line in [*damaged[:LISTED], *more])
            raise ValueError(
                f"{self.origin} holds {len(damaged)} files that are damaged or no images:\n{listed}\nRepair or remove "
                "them, or set `skip_damaged: true` to leave them out."
            )


class _Paths(Sequence[str]):
    """Paths below `folder` from memory-mapped bytes (N,), made one by one: a list of a million takes 100 MB."""

    def __init__(self, names: np.ndarray, folder: Path) -> None:
        self.names = names
        self.folder = folder

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return str(self.folder / bytes(self.names[index]).decode("utf-8", "surrogateescape"))


@cache
def _warn_once(message: str, *_: Path) -> None:
    """Once for each cache: a fit opens it twice, because the network follows the data before the data is made."""
    log.warning("%s", message)


def _digest(pixels: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "little")


def _duplicates(rows: dict[str, np.ndarray]) -> dict[str, int]:
    """How many images of a split have the same pixels as images of another, or of the same one, in words."""
    digests = {split: rows[split]["digest"] for split in rows}
    counts = {}
    for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if split in digests and other in digests:
            found = np.isin(digests[split], digests[other]).sum()
            counts[f"images of {split} have the same pixels as images of {other}"] = int(found)
    if "train" in digests:
        repeated = len(digests["train"]) - len(np.unique(digests["train"]))
        counts["images of train have the same pixels as others of train"] = repeated
    return counts


def _cut_off_test(tree: Tree, fraction: float, unit: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """(train, test): of each class the `fraction` of units with the smallest hash; one at least, never all.

    By hash and not by a shuffle, so that images added later move almost none between the splits.
    """
    units: dict[int, set[str]] = defaultdict(set)  # of each class; a unit of several classes belongs to its first
    for name, label in {unit(item): item.label for item in reversed(tree.splits["train"])}.items():
        units[label].add(name)
    chosen: set[str] = set()
    for names in units.values():
        by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
        chosen.update(by_hash[: min(max(1, round(fraction * len(names))), len(names) - 1)])
    train = [item for item in tree.splits["train"] if unit(item) not in chosen]
    return train, [item for item in tree.splits["train"] if unit(item) in chosen]
