import errno

import numpy as np
import pytest
import torch

from litengine.data.sources.cache import build_once, drop_rows, is_whole, map_array


@pytest.fixture
def place(tmp_path):
    """An empty folder; tmp_path itself also holds the home directory of the test."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def write(directory):
    (directory / "a.bin").write_bytes(b"12345")


def never(_):
    raise AssertionError("it was whole already")


def test_it_is_written_once_and_older_keys_go(place):
    old = build_once(place, "slot", "1", write)
    other = build_once(place, "other", "1", write)
    new = build_once(place, "slot", "2", write)
    assert build_once(place, "slot", "2", never) == new
    assert is_whole(new)
    assert is_whole(other)
    assert not old.exists()


@pytest.mark.parametrize("injury", ["cut short", "file gone", "no sizes", "sizes cut short"])
def test_what_is_not_whole_is_written_again(place, injury):
    directory = build_once(place, "slot", "1", write)
    if injury == "cut short":
        (directory / "a.bin").write_bytes(b"123")
    elif injury == "file gone":
        (directory / "a.bin").unlink()
    elif injury == "no sizes":
        (directory / "sizes.json").unlink()
    else:
        (directory / "sizes.json").write_text('{"a.bi')
    assert not is_whole(directory)
    assert (build_once(place, "slot", "1", write) / "a.bin").read_bytes() == b"12345"


def test_a_failure_leaves_the_cache_as_it_was(place):
    old = build_once(place, "slot", "1", write)

    def full_disk(directory):
        write(directory)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        build_once(place, "slot", "2", full_disk)
    assert is_whole(old)
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["slot-1"]


def test_what_a_killed_run_left_does_not_stay(place):
    left = place / "slot-1.partial"
    left.mkdir()
    (left / "a.bin").write_bytes(b"half")
    (left / "stranger").write_bytes(b"")
    directory = build_once(place, "slot", "1", write)
    assert not left.exists()
    assert sorted(path.name for path in directory.iterdir()) == ["a.bin", "sizes.json"]


def test_a_mapped_array_can_be_written_into_without_changing_the_file(place):
    array = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)
    np.save(place / "a.npy", array)
    tensor = map_array(place / "a.npy")  # torch's warning about read-only memory would be an error here
    np.testing.assert_array_equal(tensor, array)
    tensor[0] = 255
    assert tensor[0].min() == 255
    np.testing.assert_array_equal(np.load(place / "a.npy"), array)


def test_an_array_larger_than_memory_is_mapped(place):
    rows = 2**30 // 3072 * 200  # 200 GiB of holes: nothing of it is on the disk
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 3, 32, 32)}
    with (place / "large.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 3072)
    images = map_array(place / "large.npy")
    assert images.shape == (rows, 3, 32, 32)
    assert torch.equal(images[[0, rows // 2, rows - 1]], torch.zeros(3, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("rows", [[0], [9], [0, 1, 5, 9], [3, 4]])
def test_drop_rows(place, rows):
    array = np.arange(40, dtype=np.uint8).reshape(10, 4)
    np.save(place / "a.npy", array)
    drop_rows(place / "a.npy", rows)
    np.testing.assert_array_equal(np.load(place / "a.npy"), np.delete(array, rows, axis=0))
    assert [path.name for path in place.iterdir()] == ["a.npy"]
