"""The scripts of benchmarks/ are not a package: they import each other as `python benchmarks/x.py` lets them."""

import logging
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def quiet_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What loop.as_a_user_sees_it changes ends with the test."""
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.setattr("rich._console", None)  # which remembers what it found
    for name in ("lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.getLogger(name).level)
