import errno
import os
import re

import pytest
from PIL import Image

from litengine.data.sources.find import find_images


@pytest.fixture
def files(tmp_path):
    """In the working directory: pets/{b.png, A.JPG, notes.txt, .hidden.png, deep/{cat.png, Thumbs.db}}, one.png."""
    for name in ("one.png", "pets/b.png", "pets/A.JPG", "pets/.hidden.png", "pets/deep/cat.png", "pets/.git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (1, 1)).save(tmp_path / name)
    for name in ("pets/notes.txt", "pets/deep/Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


IN_PETS = ["pets/A.JPG", "pets/b.png", "pets/deep/cat.png"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["one.png"], ["one.png"]),
        (["pets/notes.txt"], ["pets/notes.txt"]),  # asked for by name: it is tried
        (["pets"], IN_PETS),
        (["pets/"], IN_PETS),
        (["pets/*"], IN_PETS),
        (["pets/*.png"], ["pets/b.png"]),
        (["p?ts/[ab].png"], ["pets/b.png"]),
        (["**/*.png"], ["one.png", "pets/b.png", "pets/deep/cat.png"]),
        (["pets/**"], IN_PETS),
        (["one.png", "pets", "pets/b.png", "*.png"], ["one.png", *IN_PETS]),  # each once
        (["pets/b.png", "one.png"], ["pets/b.png", "one.png"]),  # in the order of the words
        (["./one.png"], ["./one.png"]),
    ],
)
def test_files_folders_and_globs(words, found, files):
    assert find_images(words) == found


def test_absolute_paths_and_home(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    assert find_images(["~/pets/*.png"]) == [str(files / "pets/b.png")]


def test_a_name_with_brackets_is_a_file_first(files):
    os.rename("one.png", "one [1].png")
    assert find_images(["one [1].png"]) == ["one [1].png"]


def test_links_are_followed_and_loops_are_not(files):
    os.symlink("../..", "pets/deep/up")
    os.symlink(files / "pets", "linked")
    assert find_images(["pets"]) == [*IN_PETS, "pets/deep/up/one.png"]
    assert len(find_images(["linked"])) == 4


def test_a_link_to_nothing_in_a_folder_is_left_for_its_row(files):
    os.symlink("gone.png", "pets/z.png")
    assert find_images(["pets"])[-1] == "pets/z.png"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("on.png", "there is no file or folder on.png: did you mean one.png?"),
        ("pets/deep/cap.png", "there is no file or folder pets/deep/cap.png: did you mean pets/deep/cat.png?"),
        ("zzz", "there is no file or folder zzz"),
        ("pats/b.png", "there is no folder pats, and so no pats/b.png"),
        ("one.png/b.png", "there is no folder one.png, and so no one.png/b.png"),
        ("", "there is no file or folder "),
        ("*.webp", "no image matches *.webp (bmp, gif, jpeg, jpg, pgm, png, ppm, tif, tiff, webp)"),
        ("pets/*.txt", "no image matches pets/*.txt (bmp"),
        ("empty", "the folder empty holds no images (bmp"),
        ("broken", "broken is neither a file nor a folder: a link to nothing"),
        ("/dev/null", "/dev/null is neither a file nor a folder"),
    ],
)
def test_a_word_that_means_nothing_is_told(word, message, files):
    os.symlink("gone.png", "broken")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        find_images(["one.png", word])


def test_a_folder_that_may_not_be_read_is_told(files, monkeypatch):
    def forbid(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)

    monkeypatch.setattr(os, "listdir", forbid)  # root, whom tests may run as, is refused nothing
    with pytest.raises(OSError, match="cannot read the folder pets: Permission denied"):
        find_images(["pets"])
