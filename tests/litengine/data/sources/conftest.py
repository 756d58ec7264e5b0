import pytest
from streams import gets, small_shards, store

__all__ = ["gets", "place", "small_shards", "store"]


@pytest.fixture
def place(tmp_path):
    """An empty folder; tmp_path itself also holds the home directory of the test."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"
