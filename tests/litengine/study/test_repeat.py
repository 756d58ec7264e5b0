"""Folds and seeds, with a fit that is none."""

import csv
import math
import os
import signal
import time
from pathlib import Path

import pytest

from litengine.study import locks
from litengine.training.run_directory import read_state

FOLDS = ["--folds", "3"]
SLOW = ["--model.pause", "0.3"]


def rows(study: Path) -> list[dict[str, str]]:
    """study.csv, without what differs from time to time."""
    with (study / "study.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "directory")} for row in csv.DictReader(file)]


def trained(study: Path) -> dict[str, int]:
    """How often each run was trained to its end."""
    return {path.parents[1].name: len(path.read_text().splitlines()) for path in study.glob("*/*/trained")}


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_every_fold_is_trained_once_and_the_table_says_what_came_out(study, capsys):
    study(*FOLDS)
    directory = Path("runs/digits-3-folds")
    assert trained(directory) == {"fold-0": 1, "fold-1": 1, "fold-2": 1}
    table = rows(directory)
    assert [row["run"] for row in table] == ["fold-0", "fold-1", "fold-2", "mean", "std", "low", "high"]
    values = [0.835, 0.836, 0.837]  # 0.9 - 0.2 ** 2 - 0.1 / 4, and a thousandth a fold
    half = 4.302653 * 0.001 / math.sqrt(3)  # t(0.975, 2)
    expected = [*values, 0.836, 0.001, 0.836 - half, 0.836 + half]
    assert [float(row["val/acc"]) for row in table] == pytest.approx(expected, abs=1e-6)
    assert {row["best_epoch"] for row in table[:3]} == {"4"} and "test/acc" not in table[0]
    assert (directory / "study.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "val/acc 0.8360 ± 0.0010, 95 % interval 0.8335 to 0.8385 (3 folds)" in printed
    assert "which images are held out" in printed and "fold-1: val/acc 0.8360" in printed


def test_the_test_set_is_read_only_when_that_is_asked_for(study):
    study(*FOLDS)
    directory = Path("runs/digits-3-folds")
    assert not [*directory.glob("*/*/report")]
    study(*FOLDS, "--test", "true")  # afterwards: nothing is trained again
    assert trained(directory) == {"fold-0": 1, "fold-1": 1, "fold-2": 1}
    assert [float(row["test/acc"]) for row in rows(directory)[:4]] == pytest.approx([0.785, 0.786, 0.787, 0.786])
    study(*FOLDS, "--test", "true", "--name", "at-once")
    assert rows(Path("runs/at-once")) == rows(directory)


def test_seeds_can_be_added(study, capsys):
    study("--seeds", "0..1")
    study("--seeds", "0..2,7")
    directory = Path("runs/digits-seeds")
    assert trained(directory) == {"seed-0": 1, "seed-1": 1, "seed-2": 1, "seed-7": 1}
    assert [float(row["val/acc"]) for row in rows(directory)[:4]] == [0.835, 0.8351, 0.8352, 0.8357]
    printed = capsys.readouterr().out
    assert "2 of 4 runs are done already" in printed and "initial weights, order and augmentation" in printed


def test_one_run_has_no_interval(study, capsys):
    study("--seeds", "3")
    assert "val/acc 0.8353 (1 seeds)" in capsys.readouterr().out
    assert [row["val/acc"] for row in rows(Path("runs/digits-seeds"))] == ["0.835300", "0.835300", "", "", ""]


def test_workers_change_nothing(study):
    study(*FOLDS)
    study(*FOLDS, "--workers", "2", "--name", "two")
    assert rows(Path("runs/two")) == rows(Path("runs/digits-3-folds"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_asked_to_stop_goes_on_to_the_same_table(number, study, program, tmp_path):
    study(*FOLDS, *SLOW, "--name", "whole")
    stopped = program(*FOLDS, *SLOW, "--workers", "2")
    directory = tmp_path / "runs/digits-3-folds"
    wait_for(lambda: any("\n1," in path.read_text() for path in directory.glob("*/*/metrics.csv")))
    stopped.send_signal(number)
    printed, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + number, printed
    assert "stopped; go on with: python main.py study --folds 3 --model.pause 0.3 --workers 2" in printed
    states = [read_state(path.parent) for path in directory.glob("*/*/state.json")]
    assert states == ["stopped", "stopped"] and not (directory / "study.csv").exists()
    study(*FOLDS, *SLOW)
    assert rows(directory) == rows(tmp_path / "runs/whole")
    assert trained(directory) == {"fold-0": 1, "fold-1": 1, "fold-2": 1}


@pytest.mark.parametrize("with_its_runs", [True, False])
def test_a_study_that_is_killed_goes_on_to_the_same_table(with_its_runs, study, program, tmp_path, capsys):
    """By a power cut, or alone: then what it had started trains on, and must not be trained by two."""
    study(*FOLDS, *SLOW, "--name", "whole")
    killed = program(*FOLDS, *SLOW)
    directory = tmp_path / "runs/digits-3-folds"
    wait_for(lambda: any("\n1," in path.read_text() for path in directory.glob("fold-1/*/metrics.csv")))
    killed.kill()
    if with_its_runs:
        os.kill(locks.holder(directory / "fold-1/lock"), signal.SIGKILL)
    killed.communicate(timeout=60)
    capsys.readouterr()
    study(*FOLDS, *SLOW)
    assert ("fold-1 is still being trained" in capsys.readouterr().out) != with_its_runs
    assert rows(directory) == rows(tmp_path / "runs/whole")
    assert trained(directory) == {"fold-0": 1, "fold-1": 1, "fold-2": 1}


def test_a_run_that_fails_stops_the_study_and_is_explained(study, tmp_path):
    with pytest.raises(
        ValueError, match=r"^seed-1 failed, model.fail is true\n\(all it said: runs/s/seed-1/output.log"
    ):
        study("--seeds", "1,2", "--name", "s", "--model.fail", "true")
    assert not (tmp_path / "runs/s/seed-2").exists() and not (tmp_path / "runs/s/study.csv").exists()


def test_options_that_fit_does_not_take_are_refused_before_anything_is_made(study, tmp_path):
    with pytest.raises(ValueError, match=r"^unknown option --model.nothing$"):
        study(*FOLDS, "--model.nothing", "3")
    with pytest.raises(ValueError, match=r"^unknown option --worker \(study has --workers\)$"):
        study(*FOLDS, "--worker", "2")
    assert not (tmp_path / "runs").exists()


def test_a_study_of_other_settings_is_not_gone_on_with(study):
    study("--seeds", "0", "--model.x", "0.4")
    with pytest.raises(ValueError, match=r"runs/digits-seeds holds .* model.x was 0.4, is now 0.3; .*another --name"):
        study("--seeds", "0", "--model.x", "0.3")


def test_two_studies_do_not_work_in_one_directory(study, program, tmp_path):
    first = program(*FOLDS, *SLOW)
    wait_for(lambda: [*tmp_path.glob("runs/*/fold-0/lock")])
    with pytest.raises(ValueError, match=rf"process {first.pid} is at work on runs/digits-3-folds: wait for it"):
        study(*FOLDS, *SLOW)
    first.terminate()
    first.communicate(timeout=60)
