import multiprocessing
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import fit
from PIL import Image
from project_for_tests import ImageClassifier, ImageData
from torch import nn

from litengine.data import CSV, ImageFolder, Stream
from litengine.data.sources import decode, folder
from litengine.data.sources.pixels import sides
from litengine.data.sources.stream_writer import write_stream
from litengine.inference.predictor import Classifier, Predictor
from litengine.training import Checkpoints

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path):
    """Flat: 40 cats, 20 dogs of 12x8 pixels; returns the folder."""
    for name, count in (("cat", 40), ("dog", 20)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(count):
            picture().save(tmp_path / "images" / name / f"{index:02}.png")
    return tmp_path / "images"


def picture():
    return Image.fromarray(RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8))


def source_of(root, image_size=8, **arguments):
    return ImageFolder(str(root), image_size, cache_dir=str(root.parent / "cache"), **arguments)


def caches(root):
    """The directories in the cache, with the inode of each: another one where it was written again."""
    return {path.name: path.stat().st_ino for path in (root.parent / "cache").iterdir() if path.is_dir()}


def assert_pixels(arrays):
    for image, path in zip(arrays.images, arrays.paths, strict=True):
        expected = np.asarray(Image.open(path))[:, 2:10].transpose(2, 0, 1)  # the centre of 12x8
        np.testing.assert_array_equal(image, expected)


def test_flat_layout_has_a_stratified_test_split(root):
    source = source_of(root)
    source.prepare()
    train, test = source.load("train"), source.load("test")
    assert source.class_names == ["cat", "dog"]
    assert source.image_shape == (3, 8, 8)
    assert source.load("val") is None
    assert train.labels.bincount().tolist() == [36, 18]
    assert test.labels.bincount().tolist() == [4, 2]
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    names = sorted(str(path) for path in root.rglob("*.png"))
    assert sorted([*train.paths, *test.paths]) == names
    for arrays in (train, test):
        assert_pixels(arrays)
        assert [Path(path).parent.name == "dog" for path in arrays.paths] == arrays.labels.tolist()


@pytest.fixture
def decoded(monkeypatch):
    """Names of all files that are decoded."""
    names = []

    def noted(paths, *arguments, **options):
        names.extend(Path(path).name for path in paths)
        return decode.decode_batches(paths, *arguments, **options)

    monkeypatch.setattr(folder, "decode_batches", noted)
    return names


def test_the_cache_is_reused_until_the_folder_changes(root, decoded):
    source_of(root).prepare()
    assert len(decoded) == 60
    first = caches(root)
    source_of(root).prepare()
    other_process = source_of(root)  # which did not call prepare() itself
    assert other_process.class_names == ["cat", "dog"]
    assert len(other_process.load("train").labels) == 54
    assert caches(root) == first and len(decoded) == 60


def test_only_changed_files_are_decoded_again(root, decoded):
    source = source_of(root)
    source.prepare()
    del decoded[:]
    first, tests = caches(root), set(source.load("test").paths)
    picture().save(root / "cat" / "new.png")
    picture().save(root / "cat" / "00.png")
    os.utime(root / "dog" / "03.png", ns=(0, 0))
    (root / "dog" / "04.png").unlink()
    source.prepare()
    assert sorted(decoded) == ["00.png", "03.png", "new.png"]
    assert len(caches(root)) == 1 and caches(root).keys() != first.keys()
    assert len(tests & set(source.load("test").paths)) >= 4  # of 6: they stay test images
    assert sum(len(source.load(split).labels) for split in ("train", "test")) == 60
    for split in ("train", "test"):
        assert_pixels(source.load(split))


def test_a_cache_that_another_run_replaced(root):
    source = source_of(root)
    source.prepare()
    train = source.load("train")
    os.utime(root / "dog" / "03.png", ns=(0, 0))
    source_of(root).prepare()
    assert_pixels(train)  # still mapped
    with pytest.raises(ValueError, match="changed, and another run prepared it anew"):
        source.load("test")


def test_settings_have_caches_of_their_own(root, decoded):
    settings = [{"image_size": 8}, {"image_size": 4}, {"image_size": 8, "fit": "pad"}, {"image_size": [8, 4]}]
    settings.append({"image_size": [8, 8]})  # the same square as 8
    for _ in range(2):
        for chosen in settings:
            source = ImageFolder(str(root), cache_dir=str(root.parent / "cache"), **chosen)
            source.prepare()
            assert source.load("train").images.shape[2:] == sides(chosen["image_size"])
    assert len(caches(root)) == 4 and len(decoded) == 240


@pytest.mark.parametrize(
    ("file", "injury"),
    [
        ("train.pixels", "flipped"),
        ("train.pixels", "cut short"),
        ("train.npy", "flipped"),
        ("index.json", "cut short"),
        ("checksums.json", "cut short"),
    ],
)
def test_a_damaged_cache_is_repaired_from_its_intact_images(root, decoded, file, injury):
    source = source_of(root)
    source.prepare()
    expected = source.load("train").images.clone()
    del decoded[:]
    [cache] = (root.parent / "cache").glob("images-*")
    content = bytearray((cache / file).read_bytes())
    if injury == "flipped":
        content[5000 % len(content)] ^= 1
    else:
        del content[5000 % len(content) :]
    (cache / file).write_bytes(content)
    with pytest.raises(ValueError, match="call prepare"):
        source_of(root).load("train")
    source = source_of(root)
    source.prepare()
    assert torch.equal(source.load("train").images, expected)
    if file == "train.pixels":
        assert len(decoded) == (1 if injury == "flipped" else 54 - 5000 // 192)


def damage(root):
    """Entries that are not images: returns the reason that the message must give for each."""
    (root / "cat" / "00.png").write_text("not a picture")
    (root / "cat" / "01.png").write_bytes((root / "cat" / "01.png").read_bytes()[:150])
    (root / "dog" / "00.png").write_bytes(b"")
    (root / "dog" / "notes.txt").write_text("good boy")
    Image.new("1", (12000, 8000)).save(root / "dog" / "bomb.png", compress_level=1)
    (root / "dog" / "dead.png").symlink_to("gone.png")
    (root / "cat" / "loop").symlink_to(root)
    os.mkfifo(root / "cat" / "fifo.png")
    return {
        "cat/00.png": "is not an image of a known format",
        "cat/01.png": "image file is truncated",
        "dog/00.png": "is empty",
        "dog/notes.txt": "is not an image of a known format",
        "dog/bomb.png": "has more than 67,108,864 pixels",
        "dog/dead.png": "cannot be read: No such file",
        "cat/loop": "is too deep, or a link to a folder above it",
        "cat/fifo.png": "is a FIFO, socket or device",
    }


def test_all_bad_files_are_listed_in_one_error(root):
    reasons = damage(root)
    with pytest.raises(ValueError, match="holds 8 files that are damaged or no images") as caught:
        source_of(root).prepare()
    message = str(caught.value)
    for name, reason in reasons.items():
        assert f"  {name}: {reason}" in message
    assert "skip_damaged: true" in message
    assert caches(root) == {}
    for index in range(2, 25):
        (root / "cat" / f"{index:02}.png").write_text("not a picture")
    with pytest.raises(ValueError, match="… and 11 more"):  # twenty are named
        source_of(root).prepare()


def test_damaged_files_are_left_out_and_counted(root, caplog):
    damage(root)
    source = source_of(root, skip_damaged=True)
    source.prepare()
    source.prepare()
    assert [record.getMessage() for record in caplog.records] == [f"{root}: 8 damaged files are skipped"]
    train, test = source.load("train"), source.load("test")
    assert (train.labels.bincount() + test.labels.bincount()).tolist() == [38, 19]
    for arrays in (train, test):
        assert len(arrays.images) == len(arrays.labels)
        assert_pixels(arrays)
    with pytest.raises(ValueError, match="holds 8 files"):  # the cache does not hide them
        source_of(root).prepare()


def test_what_is_skipped_and_twins_are_counted(root, caplog):
    splits = root.parent / "splits"
    shutil.copytree(root, splits / "train")
    shutil.copytree(root / "dog", splits / "test" / "dog")  # 20 twins
    picture().save(splits / "test" / "dog" / "new.png")
    shutil.copytree(root, splits / "train" / "@eaDir")
    Image.open(root / "cat" / "00.png").save(splits / "train" / "cat" / "00.bmp")  # a twin in another format
    source = source_of(splits)
    source.prepare()
    assert [len(source.load(split).labels) for split in ("train", "test")] == [61, 21]
    assert source.load("test").labels.tolist() == [1] * 21 and source.load("val") is None
    assert_pixels(source.load("test"))
    assert [record.getMessage().removeprefix(f"{splits}: ") for record in caplog.records] == [
        "20 images of test have the same pixels as images of train",
        "1 images of train have the same pixels as others of train",
        "1 entries are not images and are skipped, such as train/@eaDir",
    ]


def test_grey_of_twelve_bits_needs_its_maximum(root, caplog):
    grey = RNG.integers(0, 4096, (8, 8), dtype=np.uint16)
    Image.fromarray(grey).save(root / "cat" / "00.png")
    Image.fromarray(grey * 16).save(root / "cat" / "01.png")
    with pytest.raises(ValueError, match=r"(?s)holds 1 files.*cat/00\.png: has grey values from .*grey_max"):
        source_of(root).prepare()
    with pytest.raises(ValueError, match=r"(?s)holds 1 files.*cat/01\.png: .* outside 0\.\.4095"):
        source_of(root, grey_max=4095).prepare()
    (root / "cat" / "01.png").unlink()
    source = source_of(root, grey_max=4095, test_fraction=0)
    source.prepare()
    expected = np.stack([(grey * (255 / 4095)).round()] * 3)
    np.testing.assert_array_equal(source.load("train").images[0], expected)
    assert source.reading.grey_max == 4095


@pytest.mark.parametrize("change", ["added", "removed", "written"])
def test_a_folder_that_changes_while_it_is_read(root, monkeypatch, change):
    def meanwhile(*arguments, **options):
        if change == "added":
            picture().save(root / "cat" / "new.png")
        elif change == "removed":
            (root / "cat" / "00.png").unlink(missing_ok=True)
        else:
            (root / "cat" / "00.png").write_bytes(b"half of a pic")
        return decode.decode_batches(*arguments, **options)

    monkeypatch.setattr(folder, "decode_batches", meanwhile)
    with pytest.raises(ValueError, match="changed while its images were read"):
        source_of(root, skip_damaged=True).prepare()
    assert caches(root) == {}


def test_what_stops_the_cache(root, monkeypatch):
    for path in (root / "dog").iterdir():
        path.write_text("not a picture")
    with pytest.raises(ValueError, match="No training image of the class 'dog'"):
        source_of(root, skip_damaged=True).prepare()
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"Cannot write the image cache in .*: 60 images need 0\.0 GB.*cache_dir"):
        source_of(root).prepare()
    assert caches(root) == {}
    shutil.rmtree(root.parent / "cache")
    (root.parent / "cache").write_text("")
    with pytest.raises(OSError, match=r"Cannot write the image cache in .*cache_dir"):
        source_of(root).prepare()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("image_size", [8, 0]),
        ("image_size", [8]),
        ("test_fraction", 1.1),
        ("grey_max", 0),
        ("fit", "stretch"),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} {value!r} is ")):
        ImageFolder("images", **{name: value})


def test_two_processes_decode_once(root, monkeypatch):
    """Both start in the same moment; each says how often it decoded, and what it then loads."""
    context = multiprocessing.get_context("fork")
    together, answers = context.Barrier(2), context.SimpleQueue()
    real, calls = folder.decode_batches, []
    monkeypatch.setattr(folder, "decode_batches", lambda *args, **options: calls.append(1) or real(*args, **options))

    def run():
        source = source_of(root)
        together.wait(timeout=20)
        source.prepare()
        answers.put((len(calls), source.load("train").images.numpy().tobytes()))

    processes = [context.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = sorted(answers.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (first[0], second[0]) == (0, 2)  # train and test, both by one of them
    assert first[1] == second[1]


def test_paths_keep_their_bytes(root):
    names = ["ü ß.png", os.fsdecode(b"\xff\n.png"), " .png"]
    for name in names:
        picture().save(root / "cat" / "tmp.png")
        (root / "cat" / "tmp.png").rename(root / "cat" / name)
    source = source_of(root, test_fraction=0)
    source.prepare()
    paths = source.load("train").paths
    assert source.load("test") is None  # test_fraction is 0
    assert len(paths) == 63 and {str(root / "cat" / name) for name in names} <= set(paths)
    assert paths[-1] == str(root / "dog" / "19.png") and paths[1:3] == [paths[1], paths[2]]
    with pytest.raises(IndexError):
        paths[63]


@pytest.mark.parametrize("kind", [ImageFolder, CSV])
def test_a_whole_dataset_can_be_the_test_split_and_the_cache_lies_in_it(root, kind, monkeypatch):
    monkeypatch.chdir(root)
    lines = [f"{path},{path.parent.name}" for path in sorted(root.rglob("*.png"))]
    Path("table.csv").write_text("\n".join(["path,label", *lines]))
    for _ in range(2):
        source = kind("table.csv" if kind is CSV else ".", image_size=8, test_fraction=1, cache_dir="cache")
        source.prepare()
    assert source.class_names == ["cat", "dog"] and source.load("train") is None
    assert source.load("test").labels.bincount().tolist() == [40, 20]


@pytest.mark.parametrize(
    "settings",
    [
        {"fit": "pad", "interpolation": "nearest"},
        {"fit": "squash", "grey_max": 4095},
        {"image_size": (8, 10)},
        {"image_size": (10, 8), "fit": "pad"},
    ],
)
def test_a_checkpoint_reads_images_as_its_training_images_were_read(root, settings):
    grey = Image.fromarray(RNG.integers(0, 4096, (8, 12), dtype=np.uint16))
    if "grey_max" in settings:
        grey.save(root / "cat" / "00.png")
    source = source_of(root, test_fraction=0, **settings)
    source.prepare()
    train = source.load("train")
    network = nn.Sequential(nn.Flatten(), nn.Linear(train.images[0].numel(), 2))
    data = ImageData(source, batch_size=30, val_fraction=0.2)
    fit(ImageClassifier(network, lr_scheduler=None), data, Checkpoints(), epochs=1)
    facts = torch.load("checkpoints/last.ckpt", weights_only=True)["data"]
    predictor = Predictor(Classifier(network, facts), "cpu")
    for index in (0, 1, 50):
        np.testing.assert_array_equal(predictor.prepare(train.paths[index]), train.images[index])
    np.testing.assert_array_equal(predictor.prepare(Image.open(train.paths[0])), train.images[0])
    splits = {"train": (train, np.arange(60))}
    write_stream(splits, source.class_names, source.image_shape, "stream", source.reading)
    stream = Stream("stream")
    assert stream.reading == source.reading and stream.image_shape == source.image_shape
    np.testing.assert_array_equal(stream.load("train").images[50], train.images[50])
