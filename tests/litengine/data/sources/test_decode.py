import multiprocessing
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from litengine.data.sources import decode
from litengine.data.sources.decode import decode_batches, read_batches

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """510 images, enough for worker processes; the 7th and the last are damaged."""
    folder = tmp_path_factory.mktemp("images")
    array = RNG.integers(0, 256, (510, 8, 8, 3), dtype=np.uint8)
    paths = [str(folder / f'ünïcode "{index}".bmp') for index in range(510)]
    for path, pixels in zip(paths, array, strict=True):
        Image.fromarray(pixels).save(path)
    for index in (7, 509):
        Path(paths[index]).write_bytes(b"text")
        array[index] = 0
    return paths, array.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("count", [510, 130])  # with workers, without
def test_batches_are_in_order_with_the_reason_of_each_failure(images, count, monkeypatch):
    monkeypatch.setattr(decode, "_cores", lambda: 2)
    paths, expected = images
    state = torch.get_rng_state()
    batches = list(decode_batches(paths[:count], 8, 50))
    assert torch.equal(torch.get_rng_state(), state)  # or a run would depend on what is in the cache
    assert [len(found) for found, _ in batches] == [50] * (count // 50) + [count % 50] * (count % 50 > 0)
    np.testing.assert_array_equal(np.concatenate([found for found, _ in batches]), expected[:count])
    problems = [problem for _, problems in batches for problem in problems]
    failed = {index: problem for index, problem in enumerate(problems) if problem}
    assert failed == dict.fromkeys([7, 509] if count == 510 else [7], "is not an image of a known format")


def test_workers_end_when_the_caller_stops_early(images, monkeypatch):
    monkeypatch.setattr(decode, "_cores", lambda: 2)
    monkeypatch.setattr(decode, "SMALL_BYTES", 1)  # few but large files have workers too
    with closing(decode_batches(images[0][:100], 8)) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


class Deadly(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((3, 8, 8), dtype=np.uint8), None, None


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(OSError, match="ended unexpectedly"):
        list(read_batches(Deadly(), 2))
