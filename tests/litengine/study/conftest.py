"""Studies whose runs take a fraction of a second each: fake_fit.py takes the place of the program that trains."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from litengine import project
from litengine.study import run_verb, workers

# The trials of a search need not outlive the machine
event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
COMMAND = [sys.executable, str(Path(__file__).with_name("fake_fit.py"))]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`main.py study` in this process."""
    monkeypatch.setattr(project, "command", lambda: COMMAND)
    monkeypatch.setattr(workers, "shares", lambda number: [{}] * number)  # would import torch
    monkeypatch.setattr(workers, "INTERVAL", 0.02)
    return lambda *args: run_verb(["study", *args])


@pytest.fixture
def program() -> Callable[..., "subprocess.Popen[str]"]:
    """The same as a process of its own."""
    return lambda *args: subprocess.Popen(
        [*COMMAND, "study", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
