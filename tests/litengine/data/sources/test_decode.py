import errno
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litengine.data.sources import decode, pixels
from litengine.data.sources.decode import decode_batches, decode_files

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


def test_few_but_large_files_have_workers_too(images, monkeypatch):
    paths, expected = images
    monkeypatch.setattr(decode, "decode_batch", None)
    monkeypatch.setattr(decode, "SMALL_BYTES", sum(os.path.getsize(path) for path in paths[:50]))
    (decoded,) = decode_batches(paths[:50], 8, 50)
    np.testing.assert_array_equal(decoded[0], expected[:50])


@pytest.mark.parametrize("count", [600, 130])  # with workers, without
def test_batches_come_in_order_and_know_the_place_of_failures(images, count):
    paths, expected = images
    batches = list(decode_batches(paths[:count], 8, 50))
    assert [len(found) for found, _ in batches] == [50] * (count // 50) + [count % 50] * (count % 50 > 0)
    np.testing.assert_array_equal(np.concatenate([found for found, _ in batches]), expected[:count])
    assert [index for _, failures in batches for index, _, _ in failures] == [7, 599][: 1 + (count == 600)]


def test_little_is_decoded_ahead(images, monkeypatch):
    """So memory stays small however many images there are."""
    asked = []
    ask = decode._ask
    monkeypatch.setattr(
        decode, "_ask", lambda worker, paths, size: asked.append(len(paths)) or ask(worker, paths, size)
    )
    monkeypatch.setattr(decode, "_cores", lambda: 2)
    batches = decode_batches(images[0], 8, 10)
    next(batches)
    time.sleep(0.5)
    assert 1 < len(asked) <= 5
    batches.close()


def test_workers_end_when_the_caller_stops_early(images, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **options: started.append(popen(*args, **options)) or started[-1]
    )
    monkeypatch.setattr(decode, "_cores", lambda: 3)
    with closing(decode_batches(images[0], 8)) as batches:
        next(batches)
    assert len(started) == 3
    assert all(worker.returncode is not None for worker in started)


def test_a_file_that_cannot_be_opened_is_told_apart(tmp_path):
    failures = decode_files([str(tmp_path / "gone.png")], tmp_path / "a.npy", 8)
    assert failures == [(0, os.strerror(errno.ENOENT), False)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_an_error(images):
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        decode_files(images[0], Path("/dev/full"), 8)


@pytest.mark.parametrize("program", ["import sys; sys.stdin.readline()", "import sys; sys.stdin.close()"])
def test_a_worker_that_dies_is_an_error(images, tmp_path, monkeypatch, program):
    (tmp_path / "dies.py").write_text(program)
    monkeypatch.setattr(pixels, "__file__", str(tmp_path / "dies.py"))
    start = time.monotonic()
    with pytest.raises(OSError, match="ended unexpectedly"):
        decode_files(images[0], tmp_path / "a.npy", 8)
    assert time.monotonic() - start < 5


def test_a_worker_that_dies_amid_an_answer_is_an_error(images, tmp_path, monkeypatch):
    program = "import sys; sys.stdin.readline(); sys.stdout.write('[]\\n' + 'x' * 100)"
    (tmp_path / "dies.py").write_text(program)
    monkeypatch.setattr(pixels, "__file__", str(tmp_path / "dies.py"))
    with pytest.raises(OSError, match="ended unexpectedly"):
        decode_files(images[0], tmp_path / "a.npy", 8)


def test_workers_do_not_import_torch():
    code = f"import sys, runpy; runpy.run_path({pixels.__file__!r}); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
