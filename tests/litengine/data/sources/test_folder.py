import logging
import multiprocessing
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litengine.data.sources import ImageFolder, decode, folder

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


def source_of(root, **arguments):
    return ImageFolder(str(root), image_size=8, cache_dir=str(root.parent / "cache"), **arguments)


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


def test_test_images_stay_test_images_when_images_are_added(root):
    before = source_of(root)
    before.prepare()
    tests = before.load("test").paths
    picture().save(root / "cat" / "new.png")
    after = source_of(root)
    after.prepare()
    assert len(set(tests) & set(after.load("test").paths)) >= 5
    assert len(after.load("train").paths) + len(after.load("test").paths) == 61


def test_no_test_split_where_none_is_wanted(root):
    source = source_of(root, test_fraction=0.0)
    source.prepare()
    assert source.load("test") is None
    assert len(source.load("train").labels) == 60


def test_split_layout(root):
    shutil.copytree(root, root.parent / "splits" / "train")
    shutil.copytree(root / "dog", root.parent / "splits" / "val" / "dog")
    source = source_of(root.parent / "splits")
    source.prepare()
    assert source.load("test") is None
    assert source.load("train").labels.bincount().tolist() == [40, 20]
    assert source.load("val").labels.tolist() == [1] * 20
    assert_pixels(source.load("val"))


def test_the_cache_is_reused_until_the_folder_changes(root, monkeypatch):
    source_of(root).prepare()
    first = caches(root)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode_files", None)
        source_of(root).prepare()
        other_process = source_of(root)  # which did not call prepare() itself
        assert other_process.class_names == ["cat", "dog"]
        assert len(other_process.load("train").labels) == 54
    assert caches(root) == first

    picture().save(root / "cat" / "00.png")
    source = source_of(root)
    source.prepare()
    assert len(caches(root)) == 1
    assert caches(root).keys() != first.keys()
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


def test_a_new_time_alone_decodes_again(root):
    source_of(root).prepare()
    first = caches(root)
    os.utime(root / "dog" / "03.png", ns=(0, 0))
    source_of(root).prepare()
    assert len(caches(root)) == 1
    assert caches(root).keys() != first.keys()


def test_sizes_have_caches_of_their_own(root, monkeypatch):
    arguments = {"cache_dir": str(root.parent / "cache")}
    for size in (8, 4):
        ImageFolder(str(root), image_size=size, **arguments).prepare()
    assert len(caches(root)) == 2
    monkeypatch.setattr(folder, "decode_files", None)
    for size in (8, 4):
        source = ImageFolder(str(root), image_size=size, **arguments)
        source.prepare()
        assert source.load("train").images.shape == (54, 3, size, size)


def test_a_cache_cut_short_is_made_again(root):
    source_of(root).prepare()
    [cache] = (root.parent / "cache").glob("images-*")
    with (cache / "train_images.npy").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValueError, match="call prepare"):
        source_of(root).load("train")
    source = source_of(root)
    source.prepare()
    assert_pixels(source.load("train"))


def test_load_before_prepare_says_so(root):
    with pytest.raises(ValueError, match="call prepare"):
        source_of(root).load("train")


def damage(root):
    """Five files that are no images: returns what the message must say of each, in order."""
    (root / "cat" / "00.png").write_text("not a picture")
    (root / "cat" / "01.png").write_bytes((root / "cat" / "01.png").read_bytes()[:150])
    (root / "dog" / "00.png").write_bytes(b"")
    (root / "dog" / "notes.txt").write_text("good boy")
    bomb = Image.new("1", (12000, 8000))
    bomb.save(root / "dog" / "bomb.png")
    return ["dog/notes.txt", "cat/00.png", "cat/01.png", "dog/00.png", "dog/bomb.png"]


def test_damaged_and_foreign_files_are_listed_in_one_error(root):
    names = damage(root)
    with pytest.raises(ValueError, match="holds 5 damaged or foreign files") as caught:
        source_of(root).prepare()
    message = str(caught.value)
    assert all(f"  {name}: " in message for name in names)
    assert "skip_damaged: true" in message
    assert "cat/00.png: is not an image of a known format" in message
    assert "truncated" in message
    assert "decompression bomb" in message
    assert caches(root) == {}


def test_only_the_first_twenty_are_named(root):
    for index in range(30):
        (root / "cat" / f"{index:02}.png").write_text("not a picture")
    with pytest.raises(ValueError, match="holds 30 damaged") as caught:
        source_of(root).prepare()
    assert str(caught.value).count("known format") == 20
    assert "… and 10 more" in str(caught.value)


def test_damaged_files_are_skipped_with_a_count(root, caplog):
    damage(root)
    source = source_of(root, skip_damaged=True)
    with caplog.at_level(logging.WARNING):
        source.prepare()
    assert [record.getMessage() for record in caplog.records] == [f"{root}: 5 damaged or foreign files skipped"]
    train, test = source.load("train"), source.load("test")
    assert (train.labels.bincount() + test.labels.bincount()).tolist() == [38, 19]
    for arrays in (train, test):
        assert len(arrays.images) == len(arrays.labels)
        assert_pixels(arrays)
    with pytest.raises(ValueError, match="holds 5 damaged"):  # the cache does not hide them
        source_of(root).prepare()


def test_a_class_without_one_good_image_is_an_error(root):
    for path in (root / "dog").iterdir():
        path.write_text("not a picture")
    with pytest.raises(ValueError, match="No image of the class 'dog'"):
        source_of(root, skip_damaged=True).prepare()
    assert caches(root) == {}


def test_files_that_cannot_be_opened_are_never_skipped(root, monkeypatch):
    def forbid(*arguments):
        return [*decode.decode_files(*arguments), (3, "Permission denied", False)]

    monkeypatch.setattr(folder, "decode_files", forbid)
    with pytest.raises(OSError, match=r"Cannot read 2 files in .*\n  .*png: Permission denied"):
        source_of(root, skip_damaged=True).prepare()
    assert caches(root) == {}


@pytest.mark.parametrize("change", ["added", "removed", "written"])
def test_a_folder_that_changes_while_it_is_read(root, monkeypatch, change):
    real = decode.decode_files

    def meanwhile(*arguments):
        if change == "added":
            picture().save(root / "cat" / "new.png")
        elif change == "removed":
            (root / "cat" / "00.png").unlink(missing_ok=True)
        else:
            (root / "cat" / "00.png").write_bytes(b"half of a pic")
        return real(*arguments)

    monkeypatch.setattr(folder, "decode_files", meanwhile)
    with pytest.raises(ValueError, match="changed while its images were read"):
        source_of(root, skip_damaged=True).prepare()
    assert caches(root) == {}


def test_no_space_for_the_cache(root, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6, 1000)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"Cannot write the image cache in .*: 60 images need 0\.0 GB.*cache_dir"):
        source_of(root).prepare()
    assert caches(root) == {}


def test_a_cache_dir_that_is_a_file(root):
    (root.parent / "cache").write_text("")
    with pytest.raises(OSError, match=r"Cannot write the image cache in .*cache_dir"):
        source_of(root).prepare()


@pytest.mark.parametrize(("name", "value"), [("image_size", 0), ("test_fraction", 1.0), ("test_fraction", -0.1)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} {value} is not a"):
        ImageFolder("images", **{name: value})


def test_two_processes_decode_once(root, monkeypatch):
    """Both start in the same moment; each says how often it decoded, and what it then loads."""
    context = multiprocessing.get_context("fork")
    together, answers = context.Barrier(2), context.SimpleQueue()
    real, calls = folder.decode_files, []
    monkeypatch.setattr(folder, "decode_files", lambda *arguments: calls.append(1) or real(*arguments))

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
