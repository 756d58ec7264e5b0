import logging
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
        (["pets/*"], IN_PETS),
        (["p?ts/[ab].png"], ["pets/b.png"]),
        (["**/*.png"], ["one.png", "pets/b.png", "pets/deep/cat.png"]),
        (["pets/**"], IN_PETS),
        (["one.png", "pets", "pets/b.png", "*.png"], ["one.png", *IN_PETS]),  # each once
        (["pets/b.png", "one.png"], ["pets/b.png", "one.png"]),  # in the order of the words
    ],
)
def test_files_folders_and_globs(words, found, files):
    assert find_images(words) == found


def test_a_home_and_a_name_with_brackets(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    assert find_images(["~/pets/*.png"]) == [str(files / "pets/b.png")]
    os.rename("one.png", "one [1].png")
    assert find_images(["one [1].png"]) == ["one [1].png"]


def test_links_are_followed_and_loops_are_not(files):
    os.symlink("../..", "pets/deep/up")
    os.symlink(files / "pets", "linked")
    assert find_images(["pets"]) == [*IN_PETS, "pets/deep/up/one.png"]
    assert len(find_images(["linked"])) == 4


def test_every_format_counts_whatever_its_name(files):
    formats = {"a.jfif": "JPEG", "a.avif": "AVIF", "a.qoi": "QOI", "a.tga": "TGA", "untitled": "JPEG", "b.jp_g": "JPEG"}
    for name, format in formats.items():
        Image.new("RGB", (8, 8)).save(f"pets/deep/{name}", format)
    assert find_images(["pets/deep"]) == sorted(f"pets/deep/{name}" for name in [*formats, "cat.png"])


def test_what_is_left_out_is_counted(files, caplog):
    os.mkfifo("pets/pipe")  # would never end if it were opened
    os.symlink("gone", "pets/dead")
    find_images(["pets", "pets/*"])
    names = "pets/.git, pets/.hidden.png, pets/dead, pets/deep/Thumbs.db, pets/notes.txt, …"
    assert caplog.record_tuples[0][1:] == (logging.WARNING, f"6 entries are not images and are skipped: {names}")


def test_bad_entries_named_like_images_are_kept_for_their_reason(files):
    os.symlink("gone.png", "pets/z1.png")
    os.mkfifo("pets/z2.png")
    (files / "pets/z3.png").touch()
    assert find_images(["pets"])[-3:] == ["pets/z1.png", "pets/z2.png", "pets/z3.png"]
    assert find_images(["pets/z1.png", "/dev/null"]) == ["pets/z1.png", "/dev/null"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pets/deep/cap.png", "there is no file or folder pets/deep/cap.png: did you mean pets/deep/cat.png?"),
        ("pats/b.png", "there is no folder pats, and so no pats/b.png"),
        ("", "there is no file or folder "),
        ("pets/*.txt", "no image matches pets/*.txt"),
        ("empty", "the folder empty holds no images"),
    ],
)
def test_a_word_without_an_image_is_refused(word, message, files):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        find_images(["one.png", word])
