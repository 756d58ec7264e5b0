import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from litdata.streaming import Cache
from project_for_tests import ImageData
from streams import as_rows, data_of, everything, files, write

from litengine.data import BatchLoader, Stream
from litengine.data.sources import stream, stream_files

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_stream_holds_what_was_written(monkeypatch):
    data = data_of(val_fraction=0.2)
    written = write(data)
    assert written.shards == 9 + 3 + 2 and written.bytes == 120 * 192
    source = Stream("stream")
    source.prepare()
    assert source.class_names == ["a", "b", "c"] and source.image_shape == (3, 8, 8)
    for split, size in {"train": 84, "val": 21, "test": 15}.items():
        part, arrays = data.subset(split), source.load(split)
        assert arrays.images.shape == (size, 3, 8, 8) and arrays.labels.dtype == torch.int64
        images, labels = part.arrays.images[part.indices], part.arrays.labels[part.indices]
        assert as_rows(everything(arrays), arrays.labels) == as_rows(images, labels)
        if split != "train":  # these keep their order
            assert torch.equal(everything(arrays), images) and torch.equal(arrays.labels, labels)
    assert not (Path("data")).exists()  # nothing is copied
    streamed = ImageData(source)
    monkeypatch.setattr(Stream, "_read_shard", lambda *_: pytest.fail("a shard is read"))
    assert streamed.statistics() == data.statistics()  # to the last bit


def test_training_images_are_shuffled_once_for_all():
    sorted_by_class = data_of(train=(100, 100, 100), val_fraction=0)
    arrays = sorted_by_class.subset("train").arrays
    order = torch.argsort(arrays.labels)
    arrays.images.copy_(arrays.images[order]), arrays.labels.copy_(arrays.labels[order])
    write(sorted_by_class)
    labels = Stream("stream").load("train").labels.reshape(-1, 10)
    assert all(len(shard.unique()) >= 2 for shard in labels)
    write(sorted_by_class, "again")
    assert files(Path("stream")) == files(Path("again"))


def test_splits_that_are_not_there():
    write(data_of(test=None, val_fraction=0))
    source = Stream("stream")
    assert source.load("val") is None and source.load("test") is None
    cut = ImageData(source, val_fraction=0.2)  # then they are cut as ever
    assert len(cut.subset("val").indices) == 21 and len(cut.subset("train").indices) == 84
    whole = ImageData(Stream("stream"), val_fraction=0).statistics()
    assert cut.statistics() != whole  # those of a part are measured
    assert cut.statistics()[0] == pytest.approx(whole[0], abs=0.02)


@pytest.mark.parametrize("root", ["stream", "s3://bucket/stream"])
def test_batches_from_a_folder_and_from_a_store_are_those_of_memory(root, store):
    data = data_of(train=(100, 110, 90), val_fraction=0)
    write(data, root)
    arrays = Stream(root).load("train")
    pixels = everything(arrays)
    for epoch in (0, 1):
        streamed = Stream(root).load("train")
        loader = BatchLoader(
            streamed.images, streamed.labels, 16, shuffle=True, position=lambda epoch=epoch: (epoch, 0)
        )
        for number, (images, labels) in enumerate(loader):
            chosen = loader.chosen(loader.order(epoch), number)
            assert torch.equal(images, pixels[chosen]) and torch.equal(labels, arrays.labels[chosen])


def test_a_folder_that_is_no_stream():
    Path("empty").mkdir()
    Path("file").write_text("")
    with pytest.raises(ValueError, match="nowhere does not exist; make it with: python main.py prepare"):
        Stream("nowhere").prepare()
    for root in ("empty", "file"):
        with pytest.raises(ValueError, match=f"{root} holds no stream, or one that is not finished"):
            Stream(root).prepare()


def test_litdata_of_another_program():
    cache = Cache("other/contents", chunk_size=1)
    cache[0] = {"image": torch.zeros(2, 2)}
    cache.done()
    cache.merge()
    with pytest.raises(ValueError, match=r"other holds no stream .*the chunk does not hold uint8 tensors"):
        Stream("other").prepare()


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("chunks.0.filename", "../../../escaped.bin"),
        ("chunks.0.filename", "/etc/passwd"),
        ("chunks.0.filename", "chunk-0-0.bin\n"),
        ("chunks.0.filename", ["chunk-0-0.bin"]),
        ("chunks.0.chunk_bytes", None),
        ("chunks.0.chunk_bytes", True),
        ("chunks", []),
        ("chunks", None),
    ],
)
def test_an_index_that_we_do_not_write_is_refused(change, value):
    write(data_of())
    index = part = json.loads(Path("stream/contents/index.json").read_text())
    *above, last = change.split(".")
    for key in above:
        part = part[int(key) if key.isdigit() else key]
    part[last] = value
    Path("stream/contents/index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="stream holds no stream of this program"):
        Stream("stream").prepare()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checksums", {}),
        ("checksums", {"train": [1], "test": [1]}),
        ("sizes", {"train": 10**12, "test": 15}),
        ("sizes", {"train": -1, "test": 15}),
        ("sizes", {"train": 104.0, "test": 15}),
        ("per_shard", 10**9),
        ("image_shape", [3, 8]),
        ("class_names", 5),
        ("class_names", ["a", 5, None]),
        ("mean", "abc"),
        ("std", [None] * 3),
        ("format", 2),
    ],
)
def test_contents_that_do_not_fit_together_are_refused(name, value, monkeypatch):
    asdict = stream.asdict
    monkeypatch.setattr(stream, "asdict", lambda contents: {**asdict(contents), name: value})
    write(data_of(val_fraction=0))
    with pytest.raises(ValueError, match="stream holds no stream of this program"):
        Stream("stream").prepare()


@pytest.mark.parametrize(
    ("injury", "reason"),
    [
        ("gone", r"cannot be read: FileNotFoundError: stream/train/chunk-0-3\.bin is not there"),
        ("a FIFO", r"cannot be read: FileNotFoundError: stream/train/chunk-0-3\.bin is not there"),
        ("cut short", r"cannot be read: OSError: train/chunk-0-3\.bin has 1,860 bytes in place of 1,960"),
        ("index", r"cannot be read: ValueError: its index\.json is damaged \(JSONDecodeError"),
        ("a flipped bit", "is damaged"),
    ],
)
def test_a_shard_that_is_injured(injury, reason):
    write(data_of())
    images, shard = Stream("stream").load("train").images, Path("stream/train/chunk-0-3.bin")
    content = shard.read_bytes()
    shard.unlink()
    if injury == "a FIFO":
        os.mkfifo(shard)  # opening it would never end
    elif injury == "cut short":
        shard.write_bytes(content[:-100])
    elif injury == "index":
        Path("stream/train/index.json").write_text("{")
    elif injury == "a flipped bit":
        shard.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
        assert images[29].shape == (3, 8, 8)  # of another shard
    with pytest.raises((OSError, ValueError), match=f"shard 3 of the train images in stream {reason}"):
        images[30]


@pytest.mark.parametrize("file", ["index.json", "chunk-0-0.bin"])
def test_a_file_of_any_size_is_not_read(file):
    write(data_of())
    os.truncate(f"stream/contents/{file}", 2**37)  # of holes: it takes no room
    with pytest.raises(ValueError, match=r"137,438,953,472 bytes, more than any that this program writes"):
        Stream("stream").prepare()


def test_a_tensor_of_a_million_dimensions_is_refused_at_once():
    tensor = np.array([11, 10**6, *[2**32 - 1] * 10**6], ">u4").tobytes()
    header = np.array([1, 12, 16 + len(tensor), len(tensor)], "<u4").tobytes()
    started = time.perf_counter()
    with pytest.raises(ValueError, match="a tensor with 1,000,000 dimensions"):
        stream_files.parse_chunk(header + tensor, 1)
    assert time.perf_counter() - started < 1


def test_without_litdata(monkeypatch):
    monkeypatch.setattr(stream_files, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[stream\]'"):
        Stream("s3://bucket/stream").prepare()
