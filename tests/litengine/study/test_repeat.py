"""Folds and seeds."""

import math
import signal
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from studies import kill_with_children, rows, trained, wait_for

from litengine.study import child
from litengine.study.repeat import out_of_fold, summarize
from litengine.training.run_directory import read_state

FOLDS = ["--folds", "3"]
UNTIL = [*FOLDS, "--model.until", "go"]
ALL = {"fold-0": 1, "fold-1": 1, "fold-2": 1}
HOME = Path("runs/digits-3-folds")


def at_work(number: int = 1) -> bool:
    """Whether so many fits wait for the file `go` in the middle of their training."""
    return sum("\n1," in path.read_text() for path in HOME.glob("*/*/metrics.csv")) >= number


def test_every_fold_is_trained_once_and_reported(study, capsys):
    study(*FOLDS)
    assert trained(HOME) == ALL
    table = rows(HOME)
    assert [row["run"] for row in table] == ["fold-0", "fold-1", "fold-2", "mean", "std", "low", "high"]
    values = [0.835, 0.836, 0.837]  # 0.9 - 0.2 ** 2 - 0.1 / 4, and a thousandth a fold
    half = 4.302653 * 0.001 / math.sqrt(3)  # t(0.975, 2)
    expected = [*values, 0.836, 0.001, 0.836 - half, 0.836 + half]
    assert [float(row["val/acc"]) for row in table] == pytest.approx(expected, abs=1e-6)
    assert {row["best_epoch"] for row in table[:3]} == {"4"} and "test/acc" not in table[0]
    assert (HOME / "study.png").read_bytes().startswith(b"\x89PNG") and not Path("best.ckpt").exists()
    printed = capsys.readouterr().out
    assert "val/acc 0.8360 ± 0.0010, 95 % interval 0.8335 to 0.8385 (3 folds)" in printed
    assert "fold-1: val/acc 0.8360  (epoch 4 of 4)" in printed


def test_the_test_set_is_read_only_if_asked(study):
    study(*FOLDS)
    assert not [*HOME.glob("*/*/report")]
    study(*FOLDS, "--test", "true")  # afterwards: trains nothing again
    assert trained(HOME) == ALL
    assert [float(row["test/acc"]) for row in rows(HOME)[:4]] == pytest.approx([0.785, 0.786, 0.787, 0.786])
    study(*FOLDS, "--test", "true", "--name", "at-once", "--workers", "2")
    assert rows("runs/at-once") == rows(HOME)


def test_seeds_can_be_added_and_the_best_by_the_monitored_metric_is_linked(study, capsys):
    monitor = ["--checkpoints.monitor", "val/loss"]
    study("--seeds", "1", *monitor)
    assert "val/acc 0.8351 (1 seeds)" in capsys.readouterr().out
    assert [row["val/acc"] for row in rows("runs/digits-seeds")] == ["0.8351", "0.8351", "", "", ""]
    study("--seeds", "0..2,7", *monitor)
    directory = Path("runs/digits-seeds")
    assert trained(directory) == {"seed-0": 1, "seed-1": 1, "seed-2": 1, "seed-7": 1}
    table = rows(directory)
    assert [float(row["val/acc"]) for row in table[:4]] == [0.835, 0.8351, 0.8352, 0.8357]
    assert [float(row["val/loss"]) for row in table[:4]] == [0.265, 0.2649, 0.2648, 0.2643]
    assert "1 of 4 runs are done already" in capsys.readouterr().out
    assert Path("best.ckpt").resolve().parts[-4] == "seed-7"  # the lowest loss, without --checkpoints.mode


def test_a_stopped_study_continues_to_the_same_table(study, program):
    study(*FOLDS, "--name", "whole")
    stopped = program(*UNTIL, "--workers", "2")
    wait_for(lambda: at_work(2))
    stopped.terminate()
    printed, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + signal.SIGTERM, printed
    assert "stopped; to continue: python main.py study --folds 3 --model.until go --workers 2" in printed
    states = [read_state(path.parent) for path in HOME.glob("*/*/state.json")]
    assert states == ["stopped", "stopped"] and not (HOME / "study.csv").exists()
    Path("go").touch()
    study(*UNTIL)
    assert rows(HOME) == rows("runs/whole") and trained(HOME) == ALL


@pytest.mark.parametrize("with_its_runs", [True, False])
def test_a_killed_study_continues_to_the_same_table(with_its_runs, study, program, monkeypatch):
    study(*FOLDS, "--name", "whole")
    killed = program(*UNTIL)
    wait_for(at_work)
    kill_with_children(killed.pid) if with_its_runs else killed.kill()
    killed.communicate(timeout=60)
    said = []
    # the run that was left alone goes on when the next study waits for it
    monkeypatch.setattr(child, "print_text", lambda text: said.append(text) or Path("go").touch())
    if with_its_runs:
        Path("go").touch()
    study(*UNTIL)
    assert with_its_runs or said == ["fold-0: waiting for another process that is still training it"]
    assert rows(HOME) == rows("runs/whole") and trained(HOME) == ALL


def test_two_processes_in_one_study_train_every_run_once(program):
    others = [program(*FOLDS, "--model.pause", "0.1") for _ in range(2)]
    printed = [other.communicate(timeout=60)[0] for other in others]
    assert [other.returncode for other in others] == [0, 0], printed
    assert trained(HOME) == ALL and len(rows(HOME)) == 7


def test_a_failed_run_stops_the_study_and_is_explained(study):
    with pytest.raises(ValueError, match=r"^seed-1 failed: model.fail is true\n\(complete output: runs/s/seed-1/out"):
        study("--seeds", "1,2", "--name", "s", "--model.fail", "true")
    assert not Path("runs/s/seed-2").exists() and not Path("runs/s/study.csv").exists()


def test_wrong_and_other_settings_are_refused_before_training(study):
    with pytest.raises(ValueError, match=r"^unknown option --model.nothing$"):
        study(*FOLDS, "--model.nothing", "3")
    assert not Path("runs").exists()
    study("--seeds", "0", "--model.x", "0.4")
    with pytest.raises(ValueError, match=r"runs/digits-seeds holds .* model.x was 0.4, is now 0.3; .*another --name"):
        study("--seeds", "0", "--model.x", "0.3")


@pytest.mark.parametrize("number", [2, 3, 5, 30])
def test_the_summary_equals_that_of_scipy(number):
    values = np.random.default_rng(number).normal(0.9, 0.02, number)
    summary = summarize(values.tolist())
    low, high = stats.t.interval(0.95, number - 1, values.mean(), stats.sem(values))
    expected = {"mean": values.mean(), "std": values.std(ddof=1), "low": low, "high": high}
    assert summary == pytest.approx(expected, abs=1e-12)


def test_the_summary_of_one_value_and_of_equal_values():
    assert summarize([0.7]) == {"mean": 0.7}
    assert summarize([0.9] * 4) == pytest.approx({"mean": 0.9, "std": 0, "low": 0.9, "high": 0.9})


def test_the_validation_images_of_all_folds_make_one_table(tmp_path, capsys):
    runs = [tmp_path / f"fold-{fold}" for fold in range(2)]
    for fold, run in enumerate(runs):
        run.mkdir()
        (run / "validation.csv").write_text(f"image,label\n{fold},a\n{fold + 2},b\n")
    assert out_of_fold(runs) == "fold,image,label\n0,0,a\n0,2,b\n1,1,a\n1,3,b\n"
    assert out_of_fold([*runs, tmp_path]) == ""
    (runs[1] / "validation.csv").write_text("image,label\n1,a\n3")  # cut short
    assert out_of_fold(runs) == "" and "validation.csv is damaged" in capsys.readouterr().out
