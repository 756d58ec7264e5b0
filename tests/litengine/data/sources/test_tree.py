import os
from pathlib import Path

import pytest

from litengine.data.sources.tree import fingerprint, scan


@pytest.fixture
def place(tmp_path):
    """An empty folder; tmp_path itself also holds the home directory of the test."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def plant(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def test_flat_layout(place):
    plant(place, "b/2.JPG", "b/10.jpeg", "b/deep/er/1.WebP", "a/x.tif", "a/.hidden.png", ".git/x/y.png", "readme.md")
    plant(place, "a/Thumbs.db")
    tree = scan(place)
    assert tree.class_names == ["a", "b"]
    assert not tree.has_splits
    assert tree.foreign == []
    assert tree.splits == {"train": [("a/x.tif", 0), ("b/10.jpeg", 1), ("b/2.JPG", 1), ("b/deep/er/1.WebP", 1)]}


def test_split_layout(place):
    plant(place, "train/b/1.png", "train/a/1.png", "test/b/1.gif")
    tree = scan(place)
    assert tree.class_names == ["a", "b"]
    assert tree.has_splits
    assert tree.splits == {"train": [("train/a/1.png", 0), ("train/b/1.png", 1)], "test": [("test/b/1.gif", 1)]}


def test_train_may_be_a_class(place):
    tree = scan(plant(place, "train/1.png", "plane/1.png"))
    assert tree.class_names == ["plane", "train"]
    assert not tree.has_splits


def test_foreign_files_are_listed(place):
    plant(place, "train/a/1.png", "train/b/1.png", "train/b/notes.txt", "train/stray.png", "stray.jpg", "test/a/1.bmp")
    assert scan(place).foreign == ["stray.jpg", "train/b/notes.txt", "train/stray.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "holds no class folders"),
        (["1.png"], "holds no class folders"),
        (["a/1.png"], "only one class, 'a'"),
        (["train/a/1.png", "test/a/1.png"], "train holds only one class, 'a'"),
        (["a/1.png", "empty/.keep"], "empty holds no images"),
        (["a/1.png", "text/1.txt"], "text holds no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/.keep"], "val/a holds no images"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "test holds the class 'c', which .*train does not have"),
        (["train/a/1.png", "train/b/1.png", "valid/a/1.png"], "also valid/"),
        (["test/a/1.png", "val/a/1.png"], "no class folders in train/"),
        (["train/1.png", "test/1.png"], "no class folders in train/"),
    ],
)
def test_what_is_no_image_folder_is_refused(place, paths, message):
    with pytest.raises(ValueError, match=message):
        scan(plant(place, *paths))


def test_a_root_that_cannot_be_read(place, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"gone does not exist .*expected <root>/<class>"):
        scan(place / "gone")
    plant(place, "a/1.png", "b/1.png")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        scan(place / "a/1.png")

    real = os.scandir

    def forbidden(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", forbidden)  # chmod does not stop root
    with pytest.raises(OSError, match=r"Cannot read .*b: Permission denied"):
        scan(place)


def test_links_are_followed_but_not_in_circles(place):
    plant(place / "elsewhere", "1.png")
    plant(place / "root", "a/1.png")
    (place / "root/b").symlink_to(place / "elsewhere")
    assert scan(place / "root").splits["train"] == [("a/1.png", 0), ("b/1.png", 1)]
    (place / "root/a/loop").symlink_to(place / "root")
    with pytest.raises(OSError, match="loop is a link to a folder above it"):
        scan(place / "root")


def test_the_fingerprint_sees_every_change(place):
    plant(place, "a/1.png", "b/1.png")
    seen = [fingerprint(place)[0]]
    assert fingerprint(place)[0] == seen[0]
    os.utime(place / "a/1.png", ns=(0, (place / "a/1.png").stat().st_mtime_ns + 1))
    seen.append(fingerprint(place)[0])
    plant(place, "a/2.png")
    seen.append(fingerprint(place)[0])
    (place / "a/2.png").rename(place / "a/3.png")
    seen.append(fingerprint(place)[0])
    (place / "a/3.png").unlink()
    assert fingerprint(place)[0] == seen[1]
    assert len(set(seen)) == 4
