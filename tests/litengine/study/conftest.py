"""Studies whose runs take a fraction of a second each."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litengine import project
from litengine.study import run_verb, workers

HERE = Path(__file__).parent


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`main.py study` with fake_fit.py in place of the program that trains."""
    monkeypatch.setattr(project, "command", lambda: [sys.executable, str(HERE / "fake_fit.py")])
    monkeypatch.setattr(workers, "visible_gpus", list)  # would import torch
    monkeypatch.setattr(workers, "INTERVAL", 0.02)
    return lambda *args: run_verb(["study", *args])


@pytest.fixture
def program() -> Callable[..., "subprocess.Popen[str]"]:
    """The same as a process of its own."""
    command = [sys.executable, str(HERE / "run_study.py"), "study"]
    return lambda *args: subprocess.Popen(
        [*command, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
