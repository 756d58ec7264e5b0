import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from litengine.data.sources.tree import Entry, fingerprint, scan, walk


def plant(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def splits(tree):
    return {split: [(path, label) for path, label, _ in items] for split, items in tree.splits.items()}


LEFTOVERS = [".git", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", ".Trash-1000", "System Volume Information"]


def test_leftovers_of_systems_are_skipped_and_listed(place):
    plant(place, *(f"train/{name}/cat/1.png" for name in LEFTOVERS), "@eaDir/train/1.png")
    files = ["train/a/Thumbs.db", "train/a/.DS_Store", "train/b/desktop.ini", "train/b/._1.png"]
    plant(place, "train/a/1.png", "train/b/1.png", *files)
    tree = scan(place)
    assert tree.class_names == ["a", "b"] and splits(tree)["train"] == [("train/a/1.png", 0), ("train/b/1.png", 1)]
    assert sorted(tree.skipped) == sorted([*(f"train/{name}" for name in LEFTOVERS), "@eaDir", *files])


def test_the_cache_below_the_root_is_left_out(place):
    plant(place, "a/1.png", "b/1.png")
    before = fingerprint(place, place / "cache")
    plant(place, "cache/images-1/train.pixels")
    assert scan(place, place / "cache").class_names == ["a", "b"]
    assert fingerprint(place, place / "cache") == before != fingerprint(place)


def test_images_outside_class_folders_are_bad(place):
    plant(place, "train/a/1.png", "train/b/1.png", "train/stray.png", "stray.jpg", "notes.txt")
    Image.new("RGB", (2, 2)).save(place / "untitled", "PNG")
    tree = scan(place)
    assert tree.bad == [f"{path}: is in no class folder" for path in ("stray.jpg", "train/stray.png", "untitled")]
    assert tree.skipped == ["notes.txt"]


def test_the_layouts(place):
    plant(place / "flat", "b/2.JPG", "b/10.jpeg", "b/deep/er/1", "readme.md")
    plant(place / "elsewhere", "x.tif")
    (place / "flat/a").symlink_to(place / "elsewhere")
    flat = scan(place / "flat")
    assert (flat.class_names, flat.has_splits, flat.bad, flat.skipped) == (["a", "b"], False, [], ["readme.md"])
    assert splits(flat) == {"train": [("a/x.tif", 0), ("b/10.jpeg", 1), ("b/2.JPG", 1), ("b/deep/er/1", 1)]}
    plant(place / "split", "train/b/1.png", "train/a/1.png", "test/b/1.gif")
    split = scan(place / "split")
    assert split.class_names == ["a", "b"] and split.has_splits
    assert splits(split) == {"train": [("train/a/1.png", 0), ("train/b/1.png", 1)], "test": [("test/b/1.gif", 1)]}


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.png", "car/1.png"],
        ["valid/1.png", "invalid/1.png"],
        ["cat/000/1.png", "cat/001/1.png", "dog/000/1.png", "dog/001/1.png"],  # numbered parts
        ["cat/home/1.png", "cat/zoo/1.png", "dog/1.png", "dog/home/1.png"],
        ["training/1.png", "strain/1.png", "latest/1.png"],
    ],
)
def test_layouts_that_look_like_splits_but_are_not(place, paths):
    tree = scan(plant(place, *paths))
    assert not tree.has_splits
    assert tree.class_names == sorted({path.split("/")[0] for path in paths})


CLASSES = ("cat/1.png", "dog/1.png")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Train", "Test"), ("TRAIN", None), ("training", "valid"), ("training_set", "test_set")),
        *(("train-images", "Test"), ("seg_train", "seg_test"), ("TrainData", None)),
    ],
)
def test_splits_with_other_names_are_refused(place, train, test):
    plant(place, *(f"{train}/{path}" for path in CLASSES), *(f"{test}/{path}" for path in CLASSES if test))
    with pytest.raises(ValueError, match=rf"{train}/.* like splits.*Name the splits train/, val/ and test/"):
        scan(place)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "holds no class folders"),
        (["1.png"], "holds no class folders"),
        (["a/1.png"], "only one class, 'a'"),
        (["train/a/1.png", "test/a/1.png"], "train holds only one class, 'a'"),
        (["a/1.png", "empty/.keep"], "empty holds no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/.keep"], "val/a holds no images"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "test holds the class 'c', which .*`predict`"),
        (["train/a/1.png", "train/b/1.png", "valid/a/1.png"], "also valid/: is it val/"),
        (["train/a/1.png", "train/b/1.png", "other/a/1.png"], "also other/"),
        (["test/a/1.png", "val/a/1.png"], "no class folders in train/"),
        (["train/1.png", "test/1.png"], "no class folders in train/"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "test holds no class folders.* no labels: use `predict`"),
        (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"], "cat holds test/, train/: splits belong above"),
        (["data/train/a/1.png", "data/train/b/1.png", "data/valid/a/1.png"], "data holds train/, valid/: splits"),
        (["A/cat/1.png", "A/dog/1.png", "B/dog/1.png"], "all hold folders of the same names .*Which are the classes"),
    ],
)
def test_a_layout_that_is_not_understood_is_refused(place, paths, message):
    with pytest.raises(ValueError, match=message):
        scan(plant(place, *paths))


def test_a_root_that_cannot_be_read(place, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"gone does not exist .*expected <root>/<class>"):
        scan(place / "gone")
    plant(place, "a/1.png", "b/1.png")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        scan(place / "a/1.png")
    monkeypatch.setattr(os, "scandir", forbid)  # chmod does not stop root
    with pytest.raises(OSError, match=r"Cannot read .*place: Permission denied"):
        scan(place)


def forbid(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_bad_entries_do_not_end_a_scan(place, monkeypatch):
    plant(place, "a/1.png", "b/1.png", "b/secret/1.png", "b/" + "d/" * 150 + "1.png")
    (place / "a/dead.png").symlink_to("gone.png")
    (place / "a/circle.png").symlink_to("circle.png")
    (place / "b/loop").symlink_to(place)
    os.mkfifo(place / "a/fifo.png")
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: forbid(path) if Path(path).name == "secret" else real(path))
    tree = scan(place)
    assert [line.partition(":")[0] for line in tree.bad] == [
        "a/circle.png", "a/dead.png", "b" + "/d" * 100, "b/loop", "b/secret",
    ]  # fmt: skip
    assert splits(tree) == {"train": [("a/1.png", 0), ("a/fifo.png", 0), ("b/1.png", 1)]}  # not opened here
    assert Entry("b/loop", "bad", "is too deep, or a link to a folder above it") in walk(place)
    assert stat.S_ISFIFO((place / "a/fifo.png").stat().st_mode)


def test_links_do_not_lead_to_the_whole_disk_nor_anywhere_for_ever(place):
    plant(place, *(f"a/{number}/1.png" for number in range(25)))
    for number in range(24):  # 2**24 paths
        for name in ("left", "right"):
            (place / f"a/{number}/{name}").symlink_to(f"../{number + 1}")
    for name, target in {"disk": "/", "processes": "/proc/self", "devices": "/dev/shm/.."}.items():
        (place / "a" / name).symlink_to(target)
    entries = list(walk(place))
    assert sum(entry.kind == "folder" for entry in entries) < 25 * 250
    about = {entry.path: entry.about for entry in entries if entry.kind == "bad"}
    for name in ("disk", "processes", "devices"):
        assert about[f"a/{name}"] == "is a link to the whole disk, or to a folder of the system"
    assert "has more than 100 links that lead to it" in about.values()


def test_the_fingerprint_sees_every_change_but_leftovers(place):
    plant(place, "a/1.png", "b/1.png")
    seen = [fingerprint(place)]
    plant(place, "a/.DS_Store", "@eaDir/1.png")
    assert fingerprint(place) == seen[0]
    os.utime(place / "a/1.png", ns=(0, (place / "a/1.png").stat().st_mtime_ns + 1))
    seen.append(fingerprint(place))
    plant(place, "a/2.png")
    seen.append(fingerprint(place))
    (place / "a/2.png").rename(place / "a/3.png")
    seen.append(fingerprint(place))
    (place / "a/3.png").unlink()
    assert fingerprint(place) == seen[1]
    assert len(set(seen)) == 4
