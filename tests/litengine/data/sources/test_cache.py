import numpy as np
import pytest
import torch

from litengine.data.sources.cache import build_once, is_intact, map_array


def write(directory, earlier):
    (directory / "a.bin").write_bytes(b"12345")


def throw(error):
    raise error


def never(*_):
    raise AssertionError("it was intact already")


def test_it_is_written_once_and_older_keys_are_removed(place):
    old, other = build_once(place, "slot", "1", write), build_once(place, "other", "1", write)
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            build_once(place, "slot", "2", lambda directory, earlier, failure=failure: throw(failure))
    assert is_intact(old) and not list(place.glob("slot-2*"))
    left = place / "slot-2.partial"  # of a killed run
    left.mkdir()
    (left / "stranger").write_bytes(b"half")
    given = []
    new = build_once(place, "slot", "2", lambda directory, earlier: (given.extend(earlier), write(directory, [])))
    assert build_once(place, "slot", "2", never) == new and given == [old]
    assert is_intact(new) and is_intact(other)
    assert not old.exists() and not left.exists()
    assert sorted(path.name for path in new.iterdir()) == ["a.bin", "checksums.json"]


def test_a_mapped_array_can_be_written_into_without_changing_the_file(place):
    array = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)
    array.tofile(place / "a")
    tensor = map_array(place / "a", array.shape)  # torch's warning about read-only memory would be an error here
    np.testing.assert_array_equal(tensor, array)
    tensor[0] = 255
    assert tensor[0].min() == 255
    assert (place / "a").read_bytes() == array.tobytes()


def test_an_array_larger_than_memory_is_mapped(place):
    rows = 2**30 // 3072 * 200  # 200 GiB of holes: nothing of it is on the disk
    with (place / "large").open("wb") as file:
        file.truncate(rows * 3072)
    images = map_array(place / "large", (rows, 3, 32, 32))
    assert torch.equal(images[[0, rows // 2, rows - 1]], torch.zeros(3, 3, 32, 32, dtype=torch.uint8))
