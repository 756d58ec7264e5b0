"""Images that stream from an object store, or from a folder larger than memory, in shards."""

import json
import shutil
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litengine.files import write_whole

from .base import Arrays, Source, Split
from .shards import Shards
from .stream_files import StreamFiles, check_litdata, parse_chunk

CONTENTS = "contents"  # the dataset, beside those of the splits, whose one record says what the stream holds
FORMAT = 1
SHARD_LIMIT = 2**28  # bytes; we write 2**24
LEFT_FREE = 0.1  # of a disk: downloaded shards are not kept beyond that
PAUSES = (1.0, 5.0)  # seconds before another attempt at a download that failed
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
        """As it is stored: JSON and labels, both as uint8 (1, n), since LitData may need pyarrow to read text."""
        about = {name: value for name, value in asdict(self).items() if name != "labels"}
        texts = {"about": json.dumps({"format": FORMAT, **about}).encode(), "labels": self.labels}
        return {name: torch.frombuffer(bytearray(text), dtype=torch.uint8)[None] for name, text in texts.items()}

    @classmethod
    def of_record(cls, about: np.ndarray, labels: np.ndarray) -> "Contents":
        """Raises ValueError, KeyError or TypeError if it is none, or does not fit together."""
        fields = json.loads(about.tobytes())
        if (version := fields.pop("format")) != FORMAT:
            raise ValueError(f"it has format {version}, and this version reads {FORMAT}")
        shape = tuple(fields["image_shape"])
        contents = cls(**{**fields, "image_shape": shape, "labels": labels.tobytes()})
        counts = [*shape, contents.per_shard, *contents.sizes.values()]
        if len(shape) != 3 or any(type(count) is not int or count < 1 for count in counts):
            raise ValueError(f"its shape or sizes are {counts}")
        if prod(shape) * contents.per_shard > SHARD_LIMIT:
            raise ValueError(f"its shards are larger than {SHARD_LIMIT:,} bytes")
        shards = {split: -(-size // contents.per_shard) for split, size in contents.sizes.items()}
        if shards != {split: len(sums) for split, sums in contents.checksums.items()}:
            raise ValueError("its checksums are not those of its shards")
        if len(contents.labels) != sum(contents.sizes.values()) * label_type(len(contents.class_names)).itemsize:
            raise ValueError("its labels are not those of its images")
        return contents

    def labels_of(self, split: str) -> Tensor:
        """int64 (N,)."""
        before = list(self.sizes).index(split)
        first = sum(list(self.sizes.values())[:before])
        labels = np.frombuffer(self.labels, label_type(len(self.class_names)))[first : first + self.sizes[split]]
        return torch.from_numpy(labels.astype(np.int64))


class Stream(Source):
    """What `prepare --to` has written, read from a folder or an object store while training.

    A few shards are in memory at a time and the next ones are read ahead; of several processes each reads others.
    Shards from an object store are kept in `cache_dir` until nine tenths of that disk are full; those that are not
    kept are downloaded again in every epoch. All that is read is checked against a checksum.

    Args:
        root: folder or address (`s3://bucket/folder`) of the stream.
        cache_dir: where downloaded shards are kept, for all processes of a machine.
    """

    file_arguments = ("root", "cache_dir")
    network_arguments = ("root",)

    def __init__(self, root: str, cache_dir: str = "data/cache") -> None:
        self.files = StreamFiles(root, Path(cache_dir).expanduser())
        self.root = self.files.root

    @cached_property
    def contents(self) -> Contents:
        """What the stream says of itself. Raises as `prepare` does."""
        if self.files.is_remote:
            check_litdata()
        elif not Path(self.root, CONTENTS, "index.json").is_file():
            reason = "holds no stream, or one that is not finished" if Path(self.root).exists() else "does not exist"
            raise ValueError(f"{self.root} {reason}; make it with: {MAKE} {self.root}")
        try:
            return Contents.of_record(*parse_chunk(self.files.read(CONTENTS, 0), 2))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.root} holds no stream of this program ({error}); make it with: {MAKE} …"
            ) from error
        except Exception as error:  # each object store has its own
            raise OSError(
                f"cannot read a stream at {self.root} ({_in_short(error)}); is it there, finished, and may you read it?"
            ) from error

    @property
    def class_names(self) -> list[str]:
        return list(self.contents.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.contents.image_shape

    def prepare(self) -> None:
        """Reads what the stream holds, but no image. Raises ValueError if there is no stream, or LitData is not
        installed; OSError if it cannot be read."""
        _ = self.contents

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, C, H, W) in shards, and int64 labels in memory; None if the stream has no such split."""
        contents = self.contents
        if split not in contents.sizes:
            return None
        shape = (contents.sizes[split], *contents.image_shape)
        images = Shards(partial(self._read_shard, split), shape, contents.per_shard)
        statistics = (contents.mean, contents.std) if split == "train" else None
        return Arrays(images, contents.labels_of(split), statistics=statistics)

    def _read_shard(self, split: str, shard: int) -> Tensor:
        """uint8 (n, C, H, W). Raises OSError if it cannot be read, ValueError if it is damaged."""
        if not self.files.is_remote:
            return self._fetch(split, shard)
        with suppress(OSError, ValueError):
            return self._images(split, shard, self._copy(split, shard).read_bytes())
        for pause in PAUSES:
            with suppress(OSError, ValueError):
                return self._fetch(split, shard)
            time.sleep(pause)
        return self._fetch(split, shard)

    def _fetch(self, split: str, shard: int) -> Tensor:
        """Read a shard where the stream is, and keep a copy of a download if the disk has room."""
        try:
            content = self.files.read(split, shard)
        except Exception as error:  # each object store has its own
            raise OSError(
                f"shard {shard} of the {split} images in {self.root} cannot be read: {_in_short(error)}"
            ) from error
        images = self._images(split, shard, content)
        if self.files.is_remote:
            with suppress(OSError):  # others fill the disk too; what is not kept is downloaded again
                self.files.cache.mkdir(parents=True, exist_ok=True)
                disk = shutil.disk_usage(self.files.cache)
                if disk.free - len(content) >= LEFT_FREE * disk.total:
                    write_whole(self._copy(split, shard), content)
        return images

    def _copy(self, split: str, shard: int) -> Path:
        return self.files.cache / f"{split}-{shard}.bin"

    def _images(self, split: str, shard: int, content: bytes) -> Tensor:
        """The images in a chunk, if their checksum is right."""
        contents = self.contents
        count = min(contents.per_shard, contents.sizes[split] - shard * contents.per_shard)
        with suppress(ValueError):
            [images] = parse_chunk(content, 1)
            right = images.shape == (count, *contents.image_shape)
            if right and zlib.crc32(images.data) == contents.checksums[split][shard]:
                return torch.from_numpy(images.copy())
        raise ValueError(
            f"shard {shard} of the {split} images in {self.root} is damaged, or of another stream: copy it again, or "
            "make the stream again"
        )


def label_type(classes: int) -> np.dtype[Any]:
    """The smallest type that holds all labels."""
    return np.min_scalar_type(max(0, classes - 1))


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
