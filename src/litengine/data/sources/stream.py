"""Images that stream from an object store, or from a folder larger than memory, in shards that LitData reads."""

import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Arrays, Source, Split
from .records import Records, check_litdata
from .shards import Shards

CONTENTS = "contents"  # the folder, beside those of the splits, whose one record says what the stream holds
FORMAT = 1
LEFT_FREE = 0.1  # of a disk: downloaded shards are not kept beyond that
PAUSES = (1.0, 5.0)  # seconds before another attempt at a download that broke off
MAKE = "python main.py prepare --config … --to"


@dataclass(frozen=True)
class Contents:
    """What a stream says of itself.

    Attributes:
        class_names: by label.
        image_shape: (C, H, W).
        per_shard: images in every shard but the last of a split.
        sizes: images in each split.
        checksums: CRC-32 of the pixels of each shard, by split.
        mean, std: of each channel of the training images, in units of 0..1.
        labels: of each split in turn, uint8, uint16 or uint32.
    """

    class_names: list[str]
    image_shape: tuple[int, int, int]
    per_shard: int
    sizes: dict[str, int]
    checksums: dict[str, list[int]]
    mean: list[float]
    std: list[float]
    labels: bytes

    def record(self) -> dict[str, Tensor]:
        """As it is stored: JSON and labels, both as uint8 (1, n), since text may be stored in a way that needs
        pyarrow to be read."""
        about = {name: value for name, value in asdict(self).items() if name != "labels"}
        texts = {"about": json.dumps({"format": FORMAT, **about}).encode(), "labels": self.labels}
        return {name: torch.frombuffer(bytearray(text), dtype=torch.uint8)[None] for name, text in texts.items()}

    @classmethod
    def of_record(cls, record: dict[str, Tensor]) -> "Contents":
        """Raises ValueError, KeyError or TypeError where it is none."""
        about = json.loads(record["about"].numpy().tobytes())
        if (version := about.pop("format")) != FORMAT:
            raise ValueError(f"it has format {version}, and this version reads {FORMAT}")
        labels = record["labels"].numpy().tobytes()
        return cls(**{**about, "image_shape": tuple(about["image_shape"]), "labels": labels})

    def labels_of(self, split: str) -> Tensor:
        """int64 (N,)."""
        kind = np.dtype(label_type(len(self.class_names)))
        before = list(self.sizes).index(split)
        first = sum(list(self.sizes.values())[:before])
        labels = np.frombuffer(self.labels, kind, self.sizes[split], first * kind.itemsize)
        return torch.from_numpy(labels.astype(np.int64))


class Stream(Source):
    """The images that `python main.py prepare --config … --to ROOT` wrote, with the splits that the config cuts.

    They are read a shard of 16 MiB at a time, the next ones ahead of their use, and mixed from 16 shards at once; the
    shards come in another order every epoch, which is a function of seed and epoch alone. A folder is memory-mapped.
    Shards of an object store are kept in `cache_dir` until nine tenths of that disk are full; those that are not kept
    are downloaded anew in every epoch. What is read is checked against a checksum.

    Args:
        root: folder or address (`s3://bucket/folder`) of the stream.
        cache_dir: where downloaded shards are kept, for all processes of a machine.
    """

    def __init__(self, root: str, cache_dir: str = "data/cache") -> None:
        self.records = Records(root, Path(cache_dir).expanduser())
        self.root = self.records.root
        self._contents: Contents | None = None

    @property
    def contents(self) -> Contents:
        """Raises as `prepare` does."""
        if self._contents is None:
            self._contents = self._read_contents()
        return self._contents

    @property
    def class_names(self) -> list[str]:
        return list(self.contents.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.contents.image_shape

    def prepare(self) -> None:
        """Reads what the stream holds, but no image.

        Raises ValueError where LitData is not installed, or where there is no stream; OSError where it cannot be read.
        """
        self._contents = self.contents

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, C, H, W) in shards, and int64 labels in memory; None where the stream has no such split."""
        contents = self.contents
        if split not in contents.sizes:
            return None
        shape = (contents.sizes[split], *contents.image_shape)
        images = Shards(partial(self._read_shard, split), shape, contents.per_shard)
        statistics = (contents.mean, contents.std) if split == "train" else None
        return Arrays(images, contents.labels_of(split), statistics=statistics)

    def _read_contents(self) -> Contents:
        check_litdata()
        if not self.records.is_remote and not (Path(self.root) / CONTENTS / "index.json").is_file():
            there = Path(self.root).exists()
            reason = "holds no stream, or one that is not finished" if there else "does not exist"
            raise ValueError(f"{self.root} {reason}; make it with: {MAKE} {self.root}")
        try:
            contents = Contents.of_record(self.records.read(CONTENTS, 0))
            if self.records.is_remote:  # one after the other, as long as only one thread is there to do it
                for split in contents.sizes:
                    self.records.beside(split)
            return contents
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.root} holds no stream of this program ({error}); make it with: {MAKE} …"
            ) from error
        except Exception as error:  # each object store has its own
            raise OSError(
                f"cannot read a stream at {self.root} ({_in_short(error)}); is it there, finished, and may you read it?"
            ) from error

    def _read_shard(self, split: str, shard: int) -> Tensor:
        """uint8 (n, C, H, W). Raises OSError where it cannot be had, ValueError where it is damaged."""
        if not self.records.is_remote:
            return self._fetch(split, shard)
        with self._told(split, shard):
            copy = self.records.beside(split) / f"{shard}.pixels"
        shape = self._shape(split, shard)
        if copy.is_file() and copy.stat().st_size == prod(shape):
            images = torch.from_numpy(np.fromfile(copy, dtype=np.uint8)).view(shape)
            if self._is_intact(split, shard, images):
                return images
        for pause in PAUSES:
            with suppress(OSError, ValueError):
                return self._keep(copy, self._fetch(split, shard))
            time.sleep(pause)
        return self._keep(copy, self._fetch(split, shard))

    def _fetch(self, split: str, shard: int) -> Tensor:
        with self._told(split, shard):
            images = self.records.read(split, shard)["images"]
        if images.shape != self._shape(split, shard) or not self._is_intact(split, shard, images):
            raise ValueError(
                f"shard {shard} of the {split} images in {self.root} is damaged, or of another stream: copy it once "
                "more, or make the stream anew"
            )
        return images

    @contextmanager
    def _told(self, split: str, shard: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each object store has its own
            raise OSError(
                f"shard {shard} of the {split} images in {self.root} cannot be read: {_in_short(error)}"
            ) from error

    def _shape(self, split: str, shard: int) -> tuple[int, int, int, int]:
        contents = self.contents
        return (min(contents.per_shard, contents.sizes[split] - shard * contents.per_shard), *contents.image_shape)

    def _is_intact(self, split: str, shard: int, images: Tensor) -> bool:
        return zlib.crc32(images.numpy().data) == self.contents.checksums[split][shard]

    def _keep(self, copy: Path, images: Tensor) -> Tensor:
        """The images, of which `copy` is one for the next epoch where the disk has room."""
        unfinished = copy.with_name(f"{copy.name}.{os.getpid()}.{get_ident()}")
        try:
            disk = shutil.disk_usage(copy.parent)
            if disk.free - images.nbytes >= LEFT_FREE * disk.total:
                images.numpy().tofile(unfinished)
                unfinished.replace(copy)
        except OSError:  # others fill the disk too; what is not kept is downloaded again
            unfinished.unlink(missing_ok=True)
        return images


def label_type(classes: int) -> type[np.unsignedinteger[Any]]:
    """The smallest in which labels are stored."""
    return next(kind for kind in (np.uint8, np.uint16, np.uint32) if classes - 1 <= np.iinfo(kind).max)


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
