"""README.md: what it says to type works, in the order in which it says it."""

from pathlib import Path

import pytest
from pages import blocks
from walk import Walk, make_home, write_files


@pytest.mark.slow
def test_every_command_and_every_block_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_home(tmp_path)
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as main.py does
    walk = Walk(monkeypatch)
    for block in blocks("README.md"):
        walk.run(block)
