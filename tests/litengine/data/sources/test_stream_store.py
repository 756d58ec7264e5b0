"""Stream and its files (stream_files.py) from an object store."""

import shutil
import socket
from pathlib import Path

import pytest
import torch
from streams import FakeS3, data_of, everything, write

from litengine.data import BatchLoader, Stream
from litengine.data.sources import stream

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_store_is_downloaded_once(store, gets):
    write(data_of(train=(100, 110, 90), val_fraction=0), store)
    for _ in range(2):
        arrays = Stream(store).load("train")
        for _ in BatchLoader(arrays.images, arrays.labels, 16, shuffle=True):
            pass
    assert sorted(key for key in gets if "train/chunk" in key) == sorted(
        f"stream/train/chunk-0-{shard}.bin" for shard in range(30)
    )


@pytest.mark.parametrize("full", ["before", "meanwhile"])
def test_what_the_disk_has_no_room_for_is_kept_nowhere_and_downloaded_again(full, store, gets, monkeypatch):
    def no_space(self, target):
        raise OSError(28, "No space left on device")

    write(data_of(), store)
    if full == "before":
        monkeypatch.setattr(stream, "LEFT_FREE", 1)
    else:
        monkeypatch.setattr(Path, "replace", no_space)
    first, second = (everything(Stream(store).load("test")) for _ in range(2))
    assert torch.equal(first, second) and len(first) == 15
    assert len([key for key in gets if "test/chunk" in key]) == 4
    assert not list(Path("data/cache").rglob("t*-*.bin*"))


@pytest.mark.parametrize("injury", [lambda content: content[:-1], lambda content: content[:-1] + b"?"])
def test_a_damaged_copy_is_downloaded_again(injury, store, gets):
    write(data_of(), store)
    expected = everything(Stream(store).load("test"))
    (copy,) = Path("data/cache").rglob("test-1.bin")
    copy.write_bytes(injury(copy.read_bytes()))
    assert torch.equal(everything(Stream(store).load("test")), expected)
    assert len([key for key in gets if "test/chunk" in key]) == 3
    everything(Stream(store).load("test"))  # and it is whole again
    assert len([key for key in gets if "test/chunk" in key]) == 3


def test_copies_of_a_stream_that_was_replaced_are_not_used(store):
    write(data_of(), store)
    everything(Stream(store).load("train"))
    shutil.rmtree("bucket")
    write(data_of(train=(50, 60, 70)), store)
    write(data_of(train=(50, 60, 70)), "stream")
    assert torch.equal(everything(Stream(store).load("train")), everything(Stream("stream").load("train")))


@pytest.mark.parametrize("failures", [2, 3])
def test_a_download_that_breaks_off_is_tried_again_twice(failures, store, monkeypatch):
    write(data_of(), store)
    images = Stream(store).load("train").images
    left = failures
    get = FakeS3.download_fileobj

    def broken(self, bucket, key, file):
        nonlocal left
        if key.endswith("train/chunk-0-4.bin") and (left := left - 1) >= 0:
            raise ConnectionResetError("by peer")
        return get(self, bucket, key, file)

    monkeypatch.setattr(FakeS3, "download_fileobj", broken)
    if failures == 2:
        assert images[40].shape == (3, 8, 8)
    else:
        with pytest.raises(OSError, match=r"shard 4 of the train images in s3://bucket/stream cannot be read: Connec"):
            images[40]


def test_a_store_that_does_not_answer_is_an_error_and_no_hang(monkeypatch):
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setattr(stream, "ATTEMPTS", 1)
        with pytest.raises(OSError, match=r"cannot read a stream at s3://bucket/stream \(EndpointConnectionError: "):
            Stream("s3://bucket/stream").prepare()
