"""Helpers of the tests of studies."""

import csv
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def rows(directory: str | Path) -> list[dict[str, str]]:
    """study.csv without what differs from time to time."""
    varies = ("directory", "folder")
    with (Path(directory) / "study.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in varies} for row in csv.DictReader(file)]


def trained(*directories: str | Path) -> Counter[str]:
    """How often fake_fit.py trained each run to its end."""
    paths = [path for directory in directories for path in Path(directory).glob("*/*/trained")]
    return Counter({path.parents[1].name: len(path.read_text().splitlines()) for path in paths})


def kill_with_children(process: int) -> None:
    """As a power cut does."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for each in (process, *map(int, children)):
        os.kill(each, signal.SIGKILL)
