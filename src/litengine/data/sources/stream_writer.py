"""Write a stream: shards of images in LitData's format, in a folder or in S3, completely or not at all."""

import errno
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .base import Arrays
from .histogram import histogram, moments
from .pixels import USUAL, Reading
from .progress import progress_bar
from .stream import CONTENTS, Contents, Stream, label_type
from .stream_files import is_remote

# Called with the folder of a dataset when the files in it are complete.
Keep = Callable[[Path], None]
# The stream that is already there; the folder in which datasets are written; what keeps them.
Target = tuple[Contents | None, Path, Keep]

SHARD_BYTES = 2**24  # a download of a fifth of a second at 80 MB/s; 33 of them fit into half a gigabyte


class Written(NamedTuple):
    """A stream that exists."""

    bytes: int  # of all pixels
    shards: int
    seconds: float | None  # that writing took; None if it existed before


def write_stream(
    splits: Mapping[str, tuple[Arrays, np.ndarray]],
    class_names: list[str],
    image_shape: tuple[int, int, int],
    to: str,
    reading: Reading = USUAL,
) -> Written:
    """Writes splits as a stream, unless it is there already.

    The training images are written in a random order, always the same one, so that every shard holds images of all
    classes; those of other splits in their order. A folder has another name until it is complete; in S3 the record
    that makes a stream of the shards comes last. What a killed run left is written again.

    Args:
        splits: the arrays of each, and which of their images (int64 indices) belong to it; "train" is needed.
        to: a folder, or `s3://bucket/folder`.
        reading: how image files became these pixels.

    Raises:
        ValueError: if something else is there, or LitData is not installed.
        OSError: if it cannot be written.
    """
    started = time.monotonic()
    per_shard = max(1, SHARD_BYTES // prod(image_shape))
    orders = {split: indices for split, (_, indices) in splits.items()}
    orders["train"] = np.random.default_rng(0).permutation(orders["train"])
    for first in range(0, len(orders["train"]), per_shard):
        orders["train"][first : first + per_shard].sort()  # shuffled when it is used; so the disk is read forwards
    sizes = {split: len(order) for split, order in orders.items()}
    labels = np.concatenate([splits[split][0].labels.numpy()[order] for split, order in orders.items()])
    stored = labels.astype(label_type(len(class_names))).tobytes()
    shards = sum(-(-size // per_shard) for size in sizes.values())
    volume = len(labels) * prod(image_shape)
    how = reading.facts()
    with _bucket(to) if to.startswith("s3://") else _folder(to, volume) as (found, folder, keep):
        if found is not None:
            same = (found.class_names, found.image_shape, found.sizes, found.labels, found.reading)
            if same != (class_names, image_shape, sizes, stored, how):
                raise ValueError(f"{to} holds a stream of other images: choose another place, or remove it first")
            return Written(volume, shards, None)
        checksums: dict[str, list[int]] = {}
        counts = torch.zeros(image_shape[0], 256, dtype=torch.int64)
        for split, order in orders.items():
            images = splits[split][0].images
            checksums[split] = []
            with _dataset(folder / split, keep) as add, progress_bar(f"Writing {split}", len(order)) as advance:
                for first in range(0, len(order), per_shard):
                    pixels = images[torch.from_numpy(order[first : first + per_shard])]
                    checksums[split].append(zlib.crc32(pixels.numpy().data))
                    if split == "train":
                        counts += histogram(pixels)
                    add({"images": pixels})
                    advance(len(pixels))
        mean, std = moments(counts)
        with _dataset(folder / CONTENTS, keep) as add:
            add(Contents(class_names, image_shape, per_shard, sizes, checksums, mean, std, stored, how).record())
    return Written(volume, shards, time.monotonic() - started)


@contextmanager
def _dataset(folder: Path, keep: Keep) -> Iterator[Callable[[dict[str, Tensor]], None]]:
    """A LitData dataset; yields a function that adds a record to it, as a chunk of its own."""
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_size=1)
    numbers = count()

    def add(record: dict[str, Tensor]) -> None:
        cache[next(numbers)] = record
        keep(folder)

    yield add
    cache.done()
    cache.merge()
    keep(folder)


@contextmanager
def _folder(to: str, volume: int) -> Iterator[Target]:
    if is_remote(to):
        raise ValueError(
            f"--to is {to}: a folder or s3://bucket/folder can be written; for another store write a folder, and copy "
            "it there with the store's own tool"
        )
    final = Path(to).expanduser().absolute()
    partial = final.with_name(f"{final.name}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(f".{final.name}.lock")):
        if (final / CONTENTS / "index.json").is_file():
            yield Stream(to).contents, partial, _leave
            return
        if final.is_file() or (final.is_dir() and any(final.iterdir())):
            raise ValueError(f"{final} is there, and is not a stream: choose another place, or remove it first")
        if shutil.disk_usage(final.parent).free < volume:
            raise OSError(errno.ENOSPC, f"the stream needs {volume / 1e9:.1f} GB", str(final.parent))
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed: we hold the lock
        try:
            yield None, partial, _leave
            if final.exists():  # an empty folder
                final.rmdir()
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _leave(folder: Path) -> None:
    """Nothing to do: the files are already in place."""


@contextmanager
def _bucket(to: str) -> Iterator[Target]:
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = to.rstrip("/").removeprefix("s3://").partition("/")
    if not bucket or not prefix:
        raise ValueError(f"--to is {to}: bucket and folder are needed, as in s3://bucket/folder")
    client = boto3.client("s3")

    def upload(folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            client.upload_file(str(file), bucket, f"{prefix}/{folder.name}/{file.name}")
            file.unlink()

    with tempfile.TemporaryDirectory(prefix="litengine-") as folder:
        try:
            found = None
            try:
                client.head_object(Bucket=bucket, Key=f"{prefix}/{CONTENTS}/index.json")
                found = Stream(to, cache_dir=folder).contents
            except ClientError as error:
                if error.response["Error"]["Code"] != "404":
                    raise
            yield found, Path(folder), upload
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise OSError(f"cannot write to {to}: {error}") from error
