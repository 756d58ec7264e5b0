"""Streams of FakeSource's images, and a stand-in for S3; its fixtures are found by tests/data/sources/conftest.py."""

import re
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import FakeSource
from project_for_tests import ImageData

from litengine.data.sources import stream, stream_writer
from litengine.data.sources.stream_writer import write_stream


def data_of(train=(40, 30, 35), test=(5, 5, 5), **options) -> ImageData:
    return ImageData(FakeSource(train=train, test=test), **options)


def write(data: ImageData, to: str = "stream") -> stream_writer.Written:
    parts = {split: data.subset(split) for split in ("train", "val", "test")}
    splits = {split: (part.arrays, part.indices) for split, part in parts.items() if part}
    return write_stream(splits, data.class_names, data.source.image_shape, to)


def everything(arrays) -> torch.Tensor:
    return arrays.images[torch.arange(len(arrays.labels))]


def as_rows(images: torch.Tensor, labels: torch.Tensor) -> list[bytes]:
    """Every image with its label, in an order of their own."""
    return sorted(image.numpy().tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def files(folder: Path) -> dict[str, bytes]:
    """What each holds, but for the time that LitData writes into its index."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: re.sub(rb'"updated_at": "[0-9.]+"', b"", content) for name, content in found.items()}


class FakeS3:
    """boto3's client, as far as it is used by us and by LitData; a bucket is a folder."""

    def __init__(self, *_, **__) -> None:
        self.exceptions = SimpleNamespace(NoSuchKey=KeyError)

    def upload_file(self, file: str, bucket: str, key: str) -> None:
        Path(bucket, key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, Path(bucket, key))

    def head_object(self, Bucket: str, Key: str) -> None:  # noqa: N803
        from botocore.exceptions import ClientError

        if "forbidden" in Key:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
        if not Path(Bucket, Key).exists():
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")

    def download_fileobj(self, bucket: str, key: str, file: BytesIO) -> None:
        self.head_object(bucket, key)
        file.write(Path(bucket, key).read_bytes())


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(stream_writer, "SHARD_BYTES", 10 * 3 * 8 * 8)  # ten images


@pytest.fixture
def store(monkeypatch):
    """The address of a stream in a store, after `write(data, "stream")`; every shard asked for is noted in `gets`."""
    monkeypatch.setattr("boto3.client", FakeS3)
    monkeypatch.setattr("boto3.Session", lambda **_: SimpleNamespace(client=FakeS3))
    monkeypatch.setattr(stream, "LEFT_FREE", 0)
    monkeypatch.setattr(stream, "PAUSES", (0, 0))
    return "s3://bucket/stream"


@pytest.fixture
def gets(monkeypatch):
    """The keys of all files asked for."""
    keys = []
    get = FakeS3.download_fileobj
    monkeypatch.setattr(FakeS3, "download_fileobj", lambda self, *args: (keys.append(args[1]), get(self, *args)))
    return keys
