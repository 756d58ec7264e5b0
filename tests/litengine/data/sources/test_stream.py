import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from litdata.streaming import Cache
from project_for_tests import ImageData
from streams import as_rows, data_of, everything, files, write

from litengine.data import BatchLoader, Stream
from litengine.data.sources import stream, stream_files

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_stream_holds_what_was_written():
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


def test_statistics_are_known_and_nothing_is_read_for_them(monkeypatch):
    data = data_of(val_fraction=0.2)
    write(data)
    streamed = ImageData(Stream("stream"))
    monkeypatch.setattr(Stream, "_read_shard", lambda *_: pytest.fail("a shard is read"))
    assert streamed.statistics() == data.statistics()  # to the last bit


def test_statistics_of_a_part_are_measured():
    data = data_of(val_fraction=0)
    write(data)
    part = ImageData(Stream("stream"), val_fraction=0.2)
    assert part.statistics() != data.statistics()
    assert part.statistics()[0] == pytest.approx(data.statistics()[0], abs=0.02)


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


PROGRAM = """
import hashlib
from litengine.data import BatchLoader, Stream
arrays, hashed = Stream("stream").load("train"), hashlib.sha256()
for images, _ in BatchLoader(arrays.images, arrays.labels, 16, shuffle=True, position=lambda: (3, 5)):
    hashed.update(images.numpy())
print(hashed.hexdigest())
"""


def test_the_order_is_the_same_in_another_process(capsys):
    write(data_of(train=(100, 110, 90), val_fraction=0))
    exec(PROGRAM)
    other = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert other.stdout == capsys.readouterr().out != ""


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
        ("chunks.0.chunk_size", 2),
        ("chunks", []),
        ("chunks", None),
        ("config.compression", "zstd"),
        ("config.encryption", {"algorithm": "fernet"}),
        ("config.data_format", ["pickle", "tensor"]),
        ("config.data_format", ["tensor", ["pickle"]]),
        (
            "config.data_spec",
            '[1, {"type": "collections.defaultdict", "context": "os", "children_spec": []}]',
        ),
        ("config.data_spec", "[1, " + '{"type": null, "children_spec": [' * 50_000 + "]"),
        ("config.data_spec", "nonsense"),
        ("config", []),
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
    ],
)
def test_contents_that_do_not_fit_together_are_refused(name, value, monkeypatch):
    record = stream.Contents.record
    changed = lambda self: record(replace(self, **{name: value}))  # noqa: E731
    monkeypatch.setattr(stream.Contents, "record", changed)
    write(data_of(val_fraction=0))
    with pytest.raises(ValueError, match="stream holds no stream of this program"):
        Stream("stream").prepare()


def test_a_fifo_in_a_stream_does_not_hang():
    write(data_of())
    [shard] = [path for path in shards_of("stream") if path.name == "chunk-0-3.bin"]
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(OSError, match=r"chunk-0-3\.bin is not there"):
        Stream("stream").load("train").images[30]


def test_a_later_format(monkeypatch):
    monkeypatch.setattr(stream, "FORMAT", 2)
    write(data_of())
    monkeypatch.setattr(stream, "FORMAT", 1)
    with pytest.raises(ValueError, match="it has format 2, and this version reads 1"):
        Stream("stream").prepare()


def shards_of(folder: str) -> list[Path]:
    return sorted(Path(folder, "train").glob("chunk-*.bin"), key=lambda path: int(path.stem.split("-")[-1]))


def test_a_flipped_bit_is_found():
    write(data_of())
    shard = shards_of("stream")[3]
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    images = Stream("stream").load("train").images
    assert images[29].shape == (3, 8, 8)  # of another shard
    with pytest.raises(ValueError, match="shard 3 of the train images in stream is damaged"):
        images[30]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("gone", r"FileNotFoundError: stream/train/chunk-0-3\.bin is not there"),
        ("cut short", r"OSError: train/chunk-0-3\.bin has 1,860 bytes in place of 1,960"),
        ("index", r"ValueError: its index\.json is damaged \(JSONDecodeError"),
    ],
)
def test_a_shard_that_cannot_be_read(what, reason):
    write(data_of())
    shard = shards_of("stream")[3]
    if what == "gone":
        shard.unlink()
    elif what == "cut short":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        Path("stream/train/index.json").write_text("{")
    with pytest.raises(OSError, match=f"shard 3 of the train images in stream cannot be read: {reason}"):
        Stream("stream").load("train").images[30]


def test_without_litdata(monkeypatch):
    monkeypatch.setattr(stream_files, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[stream\]'"):
        Stream("s3://bucket/stream").prepare()
