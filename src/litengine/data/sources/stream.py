"""Images that stream from an object store, or from a folder larger than memory, in shards."""

import hashlib
import json
import shutil
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litengine.files import write_whole

from .base import Arrays, Source, Split
from .pixels import Reading
from .shards import Shards
from .stream_files import check_litdata, is_remote, parse_chunk, parse_index

CONTENTS = "contents"  # the dataset, beside those of the splits, whose one record says what the stream holds
FORMAT = 1
SHARD_LIMIT = 2**28  # bytes; we write 2**24
INDEX_LIMIT = 2**26  # bytes; one of 500,000 shards has them
LEFT_FREE = 0.1  # of a disk: downloaded shards are not kept beyond that
ATTEMPTS = 8  # at a request, over half a minute
PAUSES = (1.0, 5.0)  # seconds before another attempt at a download that failed
MAKE = "python main.py prepare --config … --to"


@dataclass(frozen=True)
class Contents:
    """What a stream says of itself."""

    class_names: list[str]
    image_shape: tuple[int, int, int]
    per_shard: int  # images in every shard but the last of a split
    sizes: dict[str, int]  # images in each split
    checksums: dict[str, list[int]]  # CRC-32 of the pixels of each shard, by split
    mean: list[float]  # of each channel of the training images, in units of 0..1
    std: list[float]
    labels: bytes  # of each split in turn, uint8, uint16 or uint32
    reading: dict[str, Any] = field(default_factory=dict)  # `Source.reading`; empty for the usual one

    def record(self) -> dict[str, Tensor]:
        """As it is stored: JSON and labels, both as uint8 (1, n), since LitData may need pyarrow to read text."""
        about = {name: value for name, value in asdict(self).items() if name != "labels" and value != {}}
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
        numbers: list[Any] = [*contents.mean, *contents.std]
        named = all(isinstance(name, str) for name in contents.class_names)
        if not (named and all(isinstance(number, float | int) for number in numbers)):
            raise ValueError("its class names, mean or std are of a wrong type")
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
        Reading(**contents.reading)
        return contents

    def labels_of(self, split: str) -> Tensor:
        """int64 (N,)."""
        labels = np.frombuffer(self.labels, label_type(len(self.class_names))).astype(np.int64)
        parts = np.split(labels, np.cumsum(list(self.sizes.values()))[:-1])
        return torch.from_numpy(parts[list(self.sizes).index(split)])


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
        self.is_remote = is_remote(root)
        self.root = root.rstrip("/") if self.is_remote else str(Path(root).expanduser())
        slot = hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._copies = Path(cache_dir).expanduser() / f"stream-{slot}"
        self._chunks: dict[str, list[tuple[str, int]]] = {}  # file name and size, by dataset

    @cached_property
    def contents(self) -> Contents:
        """What the stream says of itself. Raises as `prepare` does."""
        if self.is_remote:
            check_litdata()
        elif not Path(self.root, CONTENTS, "index.json").is_file():
            reason = "holds no stream, or one that is not finished" if Path(self.root).exists() else "does not exist"
            raise ValueError(f"{self.root} {reason}; make it with: {MAKE} {self.root}")
        try:
            return Contents.of_record(*parse_chunk(self._chunk(CONTENTS, 0), 2))
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

    @property
    def reading(self) -> Reading:  # type: ignore[override]
        return Reading(**self.contents.reading)

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
        if not self.is_remote:
            return self._fetch(split, shard)
        copy = self._copies / f"{split}-{shard}.bin"
        with suppress(OSError, ValueError):
            return self._images(split, shard, copy.read_bytes())
        for pause in PAUSES:
            with suppress(OSError, ValueError):
                return self._fetch(split, shard, copy)
            time.sleep(pause)
        return self._fetch(split, shard, copy)

    def _fetch(self, split: str, shard: int, copy: Path | None = None) -> Tensor:
        """Read a shard where the stream is; write a copy if the disk has room."""
        try:
            content = self._chunk(split, shard)
        except Exception as error:  # each object store has its own
            raise OSError(
                f"shard {shard} of the {split} images in {self.root} cannot be read: {_in_short(error)}"
            ) from error
        images = self._images(split, shard, content)
        with suppress(OSError):  # others fill the disk too; what is not kept is downloaded again
            if copy:
                copy.parent.mkdir(parents=True, exist_ok=True)
                disk = shutil.disk_usage(copy.parent)
                if disk.free - len(content) >= LEFT_FREE * disk.total:
                    write_whole(copy, content)
        return images

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

    def _chunk(self, name: str, number: int) -> bytes:
        """A chunk of the dataset `name`. Raises OSError, ValueError, or what the object store's client raises."""
        if name not in self._chunks:
            self._chunks[name] = parse_index(self._file(name, "index.json"))
        chunks = self._chunks[name]
        if number >= len(chunks):
            raise ValueError(f"{name}/index.json has {len(chunks)} chunks: there is no number {number}")
        file, size = chunks[number]
        content = self._file(name, file)
        if len(content) != size:
            raise OSError(f"{name}/{file} has {len(content):,} bytes in place of {size:,}")
        return content

    def _file(self, name: str, file: str) -> bytes:
        if self.is_remote:
            buffer = BytesIO()
            self._downloader.download_fileobj(f"{self.root}/{name}/{file}", buffer)
            return buffer.getvalue()
        path = Path(self.root, name, file)
        if not path.is_file():  # nor a FIFO, which would never end
            raise FileNotFoundError(f"{path} is not there")
        if path.stat().st_size > (INDEX_LIMIT if path.suffix == ".json" else 2 * SHARD_LIMIT):
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than any that this program writes")
        return path.read_bytes()

    @cached_property
    def _downloader(self) -> Any:
        """LitData's, for any of its object stores; safe for several threads."""
        from litdata.streaming.downloader import get_downloader

        options = {}
        if self.root.startswith("s3:"):
            from botocore.config import Config

            options = {"config": Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})}
        return get_downloader(self.root, str(self._copies), [], options)


def label_type(classes: int) -> np.dtype[Any]:
    """The smallest type that holds all labels."""
    return np.min_scalar_type(max(0, classes - 1))


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
