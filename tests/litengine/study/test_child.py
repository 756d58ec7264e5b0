import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litengine.study import child, locks
from litengine.study.child import Child, environment, reason, seconds_of
from litengine.training.run_directory import read_state

FAKE = [sys.executable, str(Path(__file__).with_name("fake_fit.py"))]


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(child, "PROGRAM", FAKE)


def done(run: Child, seconds: float = 60) -> int:
    end = time.monotonic() + seconds
    while (code := run.poll()) is None:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return code


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_run_is_trained_once_and_then_tested_where_that_is_asked_for(tmp_path):
    run = Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=False)
    assert run.run_dir is None and done(run) == 0 and run.command() is None
    assert read_state(run.run_dir) == "finished" and not (run.run_dir / "report").exists()
    assert done(Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=False)) == 0
    again = Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=True)
    assert again.command()[2] == "test" and "--ckpt_path" in again.command()
    assert done(again) == 0 and again.command() is None
    assert (run.run_dir / "trained").read_text() == "once\n"
    assert (run.run_dir / "report/metrics.json").is_file()
    assert len([*(tmp_path / "s/fold-0").glob("*/state.json")]) == 1


def test_a_run_that_is_told_to_stop_is_resumed(tmp_path):
    options = ["--model.pause=0.2"]
    run = Child(tmp_path / "s/a", options, test=False)
    assert run.poll() is None
    wait_for(lambda: run.run_dir and "\n1," in (run.run_dir / "metrics.csv").read_text())
    run.stop()
    assert done(run) == 143 and read_state(run.run_dir) == "stopped"
    assert done(Child(tmp_path / "s/a", options, test=False)) == 0
    assert (run.run_dir / "trained").read_text() == "once\n"
    assert len((run.run_dir / "metrics.csv").read_text().splitlines()) == 5
    assert seconds_of(run.folder) >= 0.8


def test_a_run_that_another_process_is_at_is_waited_for_and_not_begun_again(tmp_path):
    """As where a study was killed, and what it had started was not."""
    options = ["--model.pause=0.3"]
    orphan = Child(tmp_path / "s/a", options, test=False)
    assert orphan.poll() is None
    run = Child(tmp_path / "s/a", options, test=False)
    assert run.poll() is None and run.waits_for_another
    assert locks.holder(run.folder / "lock") == orphan._process.pid
    assert done(run) == 0 and run._process is None
    assert done(orphan) == 0 and (run.run_dir / "trained").read_text() == "once\n"


def test_a_run_that_another_process_is_at_can_be_stopped(tmp_path):
    orphan = Child(tmp_path / "s/a", ["--model.pause=0.3", "--trainer.max_epochs=100"], test=False)
    assert orphan.poll() is None
    run = Child(tmp_path / "s/a", [], test=False)
    assert run.poll() is None
    wait_for(lambda: run.run_dir and (run.run_dir / "checkpoints").exists())
    run.stop()
    assert done(run) == 0 and done(orphan) == 143
    assert read_state(run.run_dir) == "stopped"


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    run = Child(tmp_path / "s/a", ["--model.pause=9"], test=False)
    assert run.poll() is None and locks.take(run.folder / "lock") is None
    os.kill(run._process.pid, signal.SIGKILL)
    assert done(run) == -9
    os.close(locks.take(run.folder / "lock"))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--model.fail=true", 2, r"^model.fail is true\n\(all it said: s/a/output.log\)$"),
        ("--model.crash=true", 1, r"^exit code 1, its last lines:\n(?s:.*)RuntimeError: crashed\n\(all it said"),
    ],
)
def test_why_a_run_failed(tmp_path, options, code, words):
    assert done(Child(tmp_path / "s/a", ["--model.fail=true"], test=False)) == 2
    run = Child(tmp_path / "s/a", [options], test=False)
    assert done(run) == code
    assert re.search(words, run.why())
    assert ("model.fail" in run.why()) == (code == 2)  # nothing of what was said the first time


def test_the_reason_is_the_message_for_the_user_or_the_end_of_what_was_said():
    assert reason("some warning\nerror: a is b:\nneeds c\n", 2) == "a is b:\nneeds c"
    assert reason("error: a\nand more\n", 1) == "exit code 1, its last lines:\nerror: a\nand more"
    assert reason("\n".join(map(str, range(100))), 1).splitlines()[1:] == list(map(str, range(85, 100)))


def test_children_find_the_same_modules_and_are_runs_of_their_own(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-parent")
    monkeypatch.delenv("OMP_NUM_THREADS")
    variables = environment("digits-seeds", devices="1,3", threads=2)
    assert "WANDB_RUN_ID" not in variables and variables["WANDB_RUN_GROUP"] == "digits-seeds"
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["OMP_NUM_THREADS"]) == ("1,3", "2")
    Path("beside_me.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    subprocess.run([sys.executable, "-c", "import beside_me"], cwd="/", env=environment(), check=True)


def test_what_the_user_says_of_groups_and_threads_holds(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    variables = environment("digits-seeds", threads=2)
    assert (variables["WANDB_RUN_GROUP"], variables["OMP_NUM_THREADS"]) == ("mine", "7")
