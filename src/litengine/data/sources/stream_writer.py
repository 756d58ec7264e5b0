"""Write a stream: shards of images as LitData reads them, in a folder or in S3, whole or not at all."""

import errno
import shutil
import tempfile
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .base import Arrays
from .histogram import histogram, moments
from .progress import progress_bar
from .records import is_remote
from .stream import CONTENTS, Contents, Stream, label_type

SHARD_BYTES = 2**24  # a download of a fifth of a second at 80 MB/s; 33 of them fit into half a gigabyte


class Written(NamedTuple):
    """A stream that is there.

    Attributes:
        bytes: of all pixels.
        shards: how many.
        seconds: that writing took; None where it was there before.
    """

    bytes: int
    shards: int
    seconds: float | None


def write_stream(
    splits: Mapping[str, tuple[Arrays, np.ndarray]], class_names: list[str], image_shape: tuple[int, int, int], to: str
) -> Written:
    """Writes splits as a stream, unless it is there already.

    The training images are written in a random order, always the same one, so that every shard holds images of all
    classes; those of other splits in theirs. A folder has another name until it is whole; in S3 the record that makes
    a stream of the shards comes last. What a stopped run left is written anew.

    Args:
        splits: the arrays of each, and which of their images (int64 indices) belong to it; "train" is needed.
        to: a folder, or `s3://bucket/folder`.

    Raises:
        ValueError: where something else is there, or LitData is not installed.
        OSError: where it cannot be written.
    """
    started = time.monotonic()
    per_shard = max(1, SHARD_BYTES // prod(image_shape))
    sizes = {split: len(indices) for split, (_, indices) in splits.items()}
    orders = {split: indices for split, (_, indices) in splits.items()}
    orders["train"] = _shuffle(orders["train"], per_shard)
    kind = label_type(len(class_names))
    labels = b"".join(splits[split][0].labels.numpy()[order].astype(kind).tobytes() for split, order in orders.items())
    shards = sum(-(-size // per_shard) for size in sizes.values())
    volume = sum(sizes.values()) * prod(image_shape)
    with _place(to, volume) as place:
        if (found := place.found()) is not None:
            same = (found.class_names, found.image_shape, found.sizes, found.labels)
            if same != (class_names, image_shape, sizes, labels):
                raise ValueError(f"{to} holds a stream of other images: choose another place, or remove it first")
            return Written(volume, shards, None)
        checksums: dict[str, list[int]] = {}
        counts = torch.zeros(image_shape[0], 256, dtype=torch.int64)
        for split, order in orders.items():
            images = splits[split][0].images
            checksums[split] = []
            with place.dataset(split) as add, progress_bar(f"Writing {split}", len(order)) as advance:
                for first in range(0, len(order), per_shard):
                    pixels = images[torch.from_numpy(order[first : first + per_shard])]
                    checksums[split].append(zlib.crc32(pixels.numpy().data))
                    if split == "train":
                        counts += histogram(pixels)
                    add({"images": pixels})
                    advance(len(pixels))
        mean, std = moments(counts)
        contents = Contents(class_names, image_shape, per_shard, sizes, checksums, mean, std, labels)
        with place.dataset(CONTENTS) as add:
            add(contents.record())
    return Written(volume, shards, time.monotonic() - started)


def _shuffle(indices: np.ndarray, per_shard: int) -> np.ndarray:
    order = np.random.default_rng(0).permutation(indices)
    for first in range(0, len(order), per_shard):
        order[first : first + per_shard].sort()  # a shard is shuffled when it is used; so the disk is read forwards
    return order


def _place(to: str, volume: int) -> "_Folder | _Bucket":
    if to.startswith("s3://"):
        return _Bucket(to)
    if is_remote(to):
        raise ValueError(
            f"--to is {to}: a folder or s3://bucket/folder can be written; for another store write a folder, and copy "
            "it there with the store's own tool"
        )
    return _Folder(Path(to).expanduser().absolute(), volume)


class _Place(ABC):
    """Where a stream is written, open for it as a context."""

    folder: Path  # on this machine, where the files are made

    @abstractmethod
    def found(self) -> Contents | None:
        """What the stream that is there already holds."""

    @abstractmethod
    def keep(self, name: str) -> None:
        """Takes the files made so far in `folder/name`: they are complete."""

    @contextmanager
    def dataset(self, name: str) -> Iterator[Callable[[dict[str, Tensor]], None]]:
        """A dataset of LitData's; yields what adds a record to it, as a chunk of its own."""
        from litdata.streaming import Cache

        cache = Cache(str(self.folder / name), chunk_size=1)
        numbers = count()

        def add(record: dict[str, Tensor]) -> None:
            cache[next(numbers)] = record
            self.keep(name)

        yield add
        cache.done()
        cache.merge()
        self.keep(name)


class _Folder(_Place):
    def __init__(self, to: Path, volume: int) -> None:
        self.to = to
        self.volume = volume
        self.folder = to.with_name(f"{to.name}.partial")

    def __enter__(self) -> "_Folder":
        self.to.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.to.with_name(f".{self.to.name}.lock"))
        self._lock.acquire()
        shutil.rmtree(self.folder, ignore_errors=True)  # left by a run that was killed: we hold the lock
        return self

    def found(self) -> Contents | None:
        if (self.to / CONTENTS / "index.json").is_file():
            return Stream(str(self.to)).contents
        if self.to.is_file() or (self.to.is_dir() and any(self.to.iterdir())):
            raise ValueError(f"{self.to} is there, and is no stream: choose another place, or remove it first")
        if shutil.disk_usage(self.to.parent).free < self.volume:
            raise OSError(errno.ENOSPC, f"the stream needs {self.volume / 1e9:.1f} GB", str(self.to.parent))
        return None

    def keep(self, name: str) -> None:
        """They are where they belong."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.folder.exists():
                if self.to.exists():  # an empty folder
                    self.to.rmdir()
                self.folder.rename(self.to)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()


class _Bucket(_Place):
    def __init__(self, to: str) -> None:
        self.to = to.rstrip("/")
        self.bucket, _, self.prefix = self.to.removeprefix("s3://").partition("/")
        if not self.bucket or not self.prefix:
            raise ValueError(f"--to is {to}: bucket and folder are needed, as in s3://bucket/folder")

    def __enter__(self) -> "_Bucket":
        self._temporary = tempfile.TemporaryDirectory(prefix="litcnn-")
        self.folder = Path(self._temporary.name)
        return self

    def found(self) -> Contents | None:
        from botocore.exceptions import ClientError

        try:
            with self._told():
                self._client.head_object(Bucket=self.bucket, Key=f"{self.prefix}/{CONTENTS}/index.json")
        except OSError as error:
            if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] == "404":
                return None
            raise
        return Stream(self.to, cache_dir=str(self.folder / "cache")).contents

    def keep(self, name: str) -> None:
        for file in sorted((self.folder / name).iterdir()):
            with self._told():
                self._client.upload_file(str(file), self.bucket, f"{self.prefix}/{name}/{file.name}")
            file.unlink()

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.client("s3")

    @contextmanager
    def _told(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise OSError(f"cannot write to {self.to}: {error}") from error
