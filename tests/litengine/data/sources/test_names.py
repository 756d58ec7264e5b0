import os

import pytest

from litengine.data.sources.names import Names, write_names

NAMES = ["a/1.png", "ü/ß 2.jpg", "", os.fsdecode(b"\xff\n.png"), "last"]


def test_names_come_back_as_they_were(tmp_path):
    write_names(iter(NAMES), tmp_path / "names")
    names = Names(tmp_path / "names", tmp_path)
    assert len(names) == 5
    assert list(names) == [str(tmp_path / name) for name in NAMES]
    assert names[-1] == names[4] == str(tmp_path / "last")
    assert names[1:4:2] == [str(tmp_path / NAMES[1]), str(tmp_path / NAMES[3])]
    with pytest.raises(IndexError):
        names[5]


def test_no_names_are_names_too(tmp_path):
    write_names([], tmp_path / "names")
    assert list(Names(tmp_path / "names", tmp_path)) == []
