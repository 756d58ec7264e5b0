"""Runs the program as a user does, and reads what it leaves."""

import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from project_for_tests import main

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]
NO_TRACKER = ["--config", str(CONFIGS / "with/no_tracker.yaml")]


def only_run(home: Path | str = ".") -> Path:
    """The only run directory in `runs/` of a folder."""
    (run,) = Path(home, "runs").glob("*/*")
    return run


def rows(run: Path, file: str = "metrics.csv") -> list[dict[str, str]]:
    """A table of a run."""
    with (run / file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


PREDICTIONS = "report/predictions.csv"


def last(run: Path) -> Any:
    """The content of its last checkpoint."""
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command line that is refused: exit code 2, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        main([*words])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in message, message
    return message


def wait_for(condition: Callable[[], Any], program: "subprocess.Popen[str] | None" = None) -> None:
    """Waits until a condition holds. Fails at once if a program, which it is about, has ended.

    The limit is far above the seconds that it takes, so that a loaded machine does not fail a test.
    """
    end = time.monotonic() + 200
    while not condition():
        assert program is None or program.poll() is None, "the program ended too soon"
        assert time.monotonic() < end, "the condition does not hold after 200 s"
        time.sleep(0.02)


def trained(lines: int = 4) -> bool:
    """Whether the metrics.csv of a run here has more than so many lines."""
    return any(len(path.read_text().splitlines()) > lines for path in Path("runs").glob("*/*/metrics.csv"))
