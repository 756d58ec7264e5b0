"""A run that was interrupted anywhere and resumed ends with the same bits as one that was not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from every_checkpoint import ARTICLE, EXACT, REFUSED, resume_from_each
from outcome import outcome

from litcnn.__main__ import main
from litengine.training.run_directory import disown, own, read_state

PROGRAM = [sys.executable, "-m", "litcnn", "fit"]
LONGER = [*PROGRAM, *ARTICLE]
LONGER += ["--trainer.limit_train_batches", "30", "--trainer.max_epochs", "3"]


def only_run(home: Path) -> Path:
    (run,) = (home / "runs").glob("*/*")
    return run


QUICK = ("ReduceLROnPlateau", "fast.yaml")  # schedules that move once an epoch, and at every step


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[pytest.mark.slow] * (r not in QUICK)) for r in EXACT])
def test_every_checkpoint_of_a_run_leads_to_the_same_end(recipe: str, tmp_path: Path) -> None:
    count, different = resume_from_each(EXACT[recipe], tmp_path / "copies", main)
    assert count >= 7 and not different


@pytest.mark.parametrize("recipe", REFUSED)
def test_a_fit_that_could_not_resume_exactly_is_refused_before_training(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *REFUSED[recipe]])
    assert "error: " in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*/config.yaml"))  # nothing that `--resume last` would take


def test_a_live_run_is_left_alone_and_a_killed_one_is_not(tmp_path: Path) -> None:
    program = subprocess.Popen([*LONGER, "--trainer.max_epochs", "1000"], stdout=subprocess.DEVNULL)
    wait_for(lambda: any(tmp_path.glob("runs/*/*/metrics.csv")))
    second = subprocess.run([*PROGRAM, "--resume", "last"], capture_output=True, text=True, timeout=120)
    assert second.returncode == 2 and f"is in use by process {program.pid}" in second.stderr
    assert own(only_run(tmp_path)) is False
    program.kill()
    program.wait()
    assert own(only_run(tmp_path)) is True
    disown(only_run(tmp_path))


SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(LONGER, cwd=home, check=True, capture_output=True, timeout=120)
    return outcome(only_run(home))


@pytest.mark.slow
@pytest.mark.parametrize("injury", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_program_that_is_stopped_can_be_resumed_to_the_same_bits(
    injury: str, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    program = subprocess.Popen(LONGER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: any(len(run.read_text().splitlines()) > 4 for run in tmp_path.glob("runs/*/*/metrics.csv")))
    program.send_signal(getattr(signal, injury))
    printed, _ = program.communicate(timeout=60)
    assert program.returncode == SIGNALS[injury], printed
    run = only_run(tmp_path)
    if injury != "SIGKILL":
        assert "fit --resume last" in printed and "Traceback" not in printed
        assert read_state(run) == "stopped"
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 60
    done = subprocess.run([*PROGRAM, "--resume", "last"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert outcome(run) == uninterrupted
    assert read_state(run) == "finished"

    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--resume", "last"])
    assert stopped.value.code == 0
    assert outcome(run) == uninterrupted


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["first", "second"])
def test_of_two_processes_either_may_be_asked_to_stop(who: str, tmp_path: Path) -> None:
    """Stock Lightning waits for ever where only the second one is."""
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.max_epochs", "1000"]
    program = subprocess.Popen([*LONGER, *two], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: any(len(run.read_text().splitlines()) > 4 for run in tmp_path.glob("runs/*/*/metrics.csv")), 120)
    (second,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    os.kill(program.pid if who == "first" else int(second), signal.SIGTERM)
    printed, _ = program.communicate(timeout=60)
    assert program.returncode == 143, printed
    assert torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0
    wait_for(lambda: not Path(f"/proc/{second}/cmdline").exists() or not Path(f"/proc/{second}/cmdline").read_bytes())
