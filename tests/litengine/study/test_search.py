"""Searches: the accuracy of fake_fit.py is highest at model.x = 0.3 and model.kind = b."""

import signal
import sqlite3
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml
from studies import kill_with_children, rows, trained, wait_for

from litengine.study import search as search_module
from litengine.study.search import TrialRun
from litengine.training.run_directory import read_state

HOME = Path("runs/search")
SPACE = {
    "method": "bayes",
    "metric": {"name": "val/acc", "goal": "maximize"},
    "parameters": {"model.x": {"min": 0.0, "max": 1.0}, "model.kind": {"values": ["a", "b"]}},
}
SEARCH = ["--space", "space.yaml", "--name", "search"]


@pytest.fixture(autouse=True)
def _space():
    write_space()


def write_space(**changes) -> None:
    Path("space.yaml").write_text(yaml.safe_dump({**SPACE, **changes}))


def names(number: int) -> Counter[str]:
    return Counter(f"trial-{i}" for i in range(number))


def linked() -> str:
    """The trial that best.ckpt links to."""
    return Path("best.ckpt").resolve().parts[-4]


def test_a_search_finds_the_best_and_prints_how_to_train_it(study, capsys):
    # with so many workers none is stopped early
    study(*SEARCH, "--trials", "8", "--trainer.max_epochs", "3", "--workers", "4")
    assert trained(HOME) == names(8)
    table = rows(HOME)
    assert [row["trial"] for row in table] == [str(i) for i in range(8)]
    for row in table:
        bonus = 0.01 * (row["model.kind"] == "b")
        expected = 0.9 - (float(row["model.x"]) - 0.3) ** 2 + bonus - 0.1 / 3
        assert row["state"] == "finished" and float(row["val/acc"]) == pytest.approx(expected, abs=1e-5)
    best = max(table, key=lambda row: float(row["val/acc"]))
    printed = capsys.readouterr().out
    assert f"best: trial {best['trial']}, val/acc {float(best['val/acc']):.4f}" in printed
    settings = f"--model.kind={best['model.kind']} --model.x={float(best['model.x'])}"
    assert f"python main.py fit --trainer.max_epochs 3 {settings}\n" in printed
    assert "8 finished" in printed and "importance: model.x" in printed and linked() == f"trial-{best['trial']}"
    for picture in ("study.png", "importances.png"):
        assert (HOME / picture).read_bytes().startswith(b"\x89PNG")
    loaded = optuna.load_study(study_name="search", storage="sqlite:///runs/search/optuna.db")
    assert [trial.params["model.x"] for trial in loaded.trials] == [float(row["model.x"]) for row in table]
    assert [*loaded.trials[0].intermediate_values] == [0, 1, 2]


def test_the_seed_decides_the_trials_also_of_a_search_in_parts(study, capsys):
    """Trial n is a function of the seed, n and those before: so no restart tries the first settings again."""
    study(*SEARCH, "--trials", "4")
    study(*SEARCH[:2], "--name", "parts", "--trials", "2")
    study(*SEARCH[:2], "--name", "parts", "--trials", "4")
    assert rows("runs/parts") == rows(HOME) and trained("runs/parts") == names(4)
    assert "2 of 4 trials are done already" in capsys.readouterr().out
    study(*SEARCH[:2], "--name", "other", "--trials", "2", "--seed_everything", "1")
    assert not {row["model.x"] for row in rows("runs/other")} & {row["model.x"] for row in rows(HOME)}


def test_one_study_at_a_time_works_on_a_search(program, study):
    first = program(*SEARCH, "--trials", "2", "--model.until", "go")
    wait_for(lambda: [*HOME.glob("trial-0/*/metrics.csv")])
    with pytest.raises(ValueError, match="runs/search is in use by another study"):
        study(*SEARCH, "--trials", "2", "--model.until", "go")
    Path("go").touch()
    printed, _ = first.communicate(timeout=60)
    assert first.returncode == 0, printed
    study(*SEARCH, "--trials", "3", "--model.until", "go")
    assert trained(HOME) == names(3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_search_resumes_its_trials(number, program, study):
    study(*SEARCH[:2], "--name", "whole", "--trials", "3")
    stopped = program(*SEARCH, "--trials", "3", "--model.until", "go")
    wait_for(lambda: any("\n1," in path.read_text() for path in HOME.glob("trial-0/*/metrics.csv")))
    kill_with_children(stopped.pid) if number == signal.SIGKILL else stopped.send_signal(number)
    printed, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == (-9 if number == signal.SIGKILL else 143), printed
    assert not (HOME / "study.csv").exists()
    Path("go").touch()
    study(*SEARCH, "--trials", "3", "--model.until", "go")
    assert trained(HOME) == names(3) and rows(HOME) == rows("runs/whole")


def test_trials_below_the_median_are_stopped_and_kept(study, capsys):
    """From the sixth on, at the second of eight epochs, where they are below the median."""
    write_space(method="random")
    study(*SEARCH, "--trials", "10", "--trainer.max_epochs", "8", "--model.pause", "0.1", "--workers", "3")
    table = rows(HOME)
    early = [row for row in table if row["state"] == "stopped early"]
    finished = [row for row in table if row["state"] == "finished"]
    assert early and len(finished) >= 5 and len(early) + len(finished) == 10
    assert all(int(row["epochs"]) < 8 and int(row["trial"]) >= 5 for row in early)
    assert max(float(row["val/acc"]) for row in table) == max(float(row["val/acc"]) for row in finished)
    run_dirs = [next(HOME.glob(f"trial-{row['trial']}/*/metrics.csv")).parent for row in early]
    assert all(read_state(run_dir) == "stopped" for run_dir in run_dirs)
    assert "below the median of the others" in capsys.readouterr().out
    study(*SEARCH, "--trials", "10", "--trainer.max_epochs", "8", "--model.pause", "0.1")
    assert rows(HOME) == table  # none of them is taken up again


def test_a_grid_tries_every_combination_once(study):
    parameters = {"model.x": {"values": [0.1, 0.3]}, "model.kind": {"values": ["a", "b"]}}
    write_space(method="grid", parameters=parameters)
    study(*SEARCH, "--trials", "3")
    study(*SEARCH)  # continues to the end of the grid
    assert trained(HOME) == names(4)
    tried = [(float(row["model.x"]), row["model.kind"]) for row in rows(HOME)]
    assert sorted(tried) == [(x, kind) for x in (0.1, 0.3) for kind in "ab"]
    assert linked() == f"trial-{tried.index((0.3, 'b'))}"


def test_a_metric_may_be_minimized_and_only_the_best_is_tested_if_asked(study, capsys):
    write_space(metric={"name": "val/loss", "goal": "minimize"})
    study(*SEARCH, "--trials", "3")
    best = min(rows(HOME), key=lambda row: float(row["val/loss"]))
    assert linked() == f"trial-{best['trial']}" and not [*HOME.glob("*/*/report")]
    config = yaml.safe_load(next(HOME.glob("trial-0/*/config.yaml")).read_text())
    assert config["checkpoints"] == {"monitor": "val/loss", "mode": "min", "link_best": False}
    capsys.readouterr()
    study(*SEARCH, "--trials", "3", "--test", "true")
    (report,) = HOME.glob("*/*/report")
    assert report.parent.parent.name == linked() and "\ntest/acc 0." in capsys.readouterr().out


def test_a_failed_trial_does_not_end_the_search(study, capsys):
    write_space(parameters={**SPACE["parameters"], "model.crash": {"values": [False, True]}}, method="random")
    study(*SEARCH, "--trials", "6")
    states = Counter(row["state"] for row in rows(HOME))
    assert states["failed"] == sum(row["model.crash"] == "True" for row in rows(HOME)) > 0
    assert states["finished"] == 6 - states["failed"] > 0
    printed = capsys.readouterr().out
    assert "RuntimeError: crashed" in printed and "failed: exit code 1, last lines" in printed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {**SPACE["parameters"], "model.fail": {"value": True}}}, "model.fail is true"),
        ({"metric": {"name": "val/other", "goal": "maximize"}}, "no epoch has a finite val/other: .* val/acc"),
    ],
)
def test_three_failures_in_a_row_end_it(changes, words, study):
    write_space(**changes)
    with pytest.raises(ValueError, match=f"3 trials in a row failed, the last one: {words}"):
        study(*SEARCH, "--trials", "20")
    assert len([*HOME.glob("trial-*")]) == 3


def test_what_cannot_be_searched_is_refused_before_the_first_trial(study, monkeypatch):
    with pytest.raises(ValueError, match="a search needs the number of its runs: --trials 20"):
        study(*SEARCH)
    with pytest.raises(ValueError, match=r"--model.x is given, and set by space.yaml too"):
        study(*SEARCH, "--trials", "3", "--model.x", "0.5")
    write_space(parameters={"model.nothing": {"min": 0, "max": 1}})
    with pytest.raises(ValueError, match="unknown option --model.nothing"):
        study(*SEARCH, "--trials", "3")
    monkeypatch.setattr("litengine.study.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[study\]'"):
        study(*SEARCH, "--trials", "2")
    assert not Path("runs").exists()


def test_another_search_in_the_same_place_is_refused(study):
    study(*SEARCH, "--trials", "1")
    write_space(parameters={"model.x": {"min": 0.0, "max": 2.0}})
    with pytest.raises(ValueError, match=r"runs/search holds a study .*varied.model.x.high was 1.0, is"):
        study(*SEARCH, "--trials", "2")
    write_space()
    Path("runs/search/optuna.db").unlink()
    with pytest.raises(ValueError, match="runs/search/trial-0 is not a trial of this search"):
        study(*SEARCH, "--trials", "2")
    Path("runs/search/optuna.db").write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(ValueError, match=r"runs/search/optuna.db cannot be used: .*file is not a database"):
        study(*SEARCH, "--trials", "2")


def test_a_database_that_gets_locked_stops_the_search_and_its_runs(study, monkeypatch):
    monkeypatch.setattr(search_module, "TIMEOUT", 0.1)
    study(*SEARCH, "--trials", "1", "--model.pause", "0.2")
    other = sqlite3.connect("runs/search/optuna.db", isolation_level=None)
    poll = TrialRun.poll

    def lock_then_poll(run):
        if not other.in_transaction and run.run_dir:
            other.execute("BEGIN EXCLUSIVE")
        return poll(run)

    monkeypatch.setattr(TrialRun, "poll", lock_then_poll)
    with pytest.raises(ValueError, match="runs/search/optuna.db cannot be used: .*is locked"):
        study(*SEARCH, "--trials", "2", "--model.pause", "0.2")
    other.close()
    (run_dir,) = filter(Path.is_dir, (HOME / "trial-1").iterdir())
    assert read_state(run_dir) == "stopped"
