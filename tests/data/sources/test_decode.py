import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litcnn.data.sources import decode, pixels
from litcnn.data.sources.decode import decode_files

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """600 PNGs, enough for worker processes; the 7th and the last are damaged."""
    folder = tmp_path_factory.mktemp("images")
    array = RNG.integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    paths = []
    for index in range(600):
        path = folder / f'ünïcode "{index}".png'
        Image.fromarray(array[index]).save(path)
        paths.append(str(path))
    for index in (7, 599):
        (folder / f'ünïcode "{index}".png').write_bytes(b"text")
        array[index] = 0
    return paths, array.transpose(0, 3, 1, 2)


def test_workers_give_every_image_its_row_and_list_what_failed(images, tmp_path):
    paths, expected = images
    failures = decode_files(paths, tmp_path / "a.npy", 8)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    reason = "is not an image of a known format"
    assert failures == [(7, reason, True), (599, reason, True)]


def test_the_same_without_workers(images, tmp_path, monkeypatch):
    paths, expected = images
    monkeypatch.setattr(decode, "_decode_with_workers", None)
    failures = decode_files(paths[:499], tmp_path / "a.npy", 8)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected[:499])
    assert [failure[0] for failure in failures] == [7]


def test_a_file_that_cannot_be_opened_is_told_apart(tmp_path):
    failures = decode_files([str(tmp_path / "gone.png")], tmp_path / "a.npy", 8)
    assert failures == [(0, os.strerror(errno.ENOENT), False)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_an_error_that_workers_report(images):
    paths, _ = images
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        decode._decode_with_workers(paths, ["/dev/full", "8", "0"], lambda *_: None)


def test_a_worker_that_dies_is_an_error(images, tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import sys; sys.stdin.readline()")
    monkeypatch.setattr(pixels, "__file__", str(tmp_path / "dies.py"))
    start = time.monotonic()
    with pytest.raises(OSError, match="ended unexpectedly"):
        decode_files(images[0], tmp_path / "a.npy", 8)
    assert time.monotonic() - start < 5


def test_workers_do_not_import_torch():
    code = f"import sys, runpy; runpy.run_path({pixels.__file__!r}); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
