import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from studies import wait_for

from litengine.study import locks
from litengine.study.child import Child, environment, reason
from litengine.training.run_directory import read_state

pytestmark = pytest.mark.usefixtures("study")  # fake_fit.py trains


def done(run: Child) -> int:
    codes: list[int | None] = []
    wait_for(lambda: codes.append(run.poll()) or codes[-1] is not None)
    return codes[-1]


def test_a_run_is_trained_once_and_tested_if_asked(tmp_path):
    run = Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=False)
    assert run.run_dir is None and done(run) == 0 and run.command() is None
    assert read_state(run.run_dir) == "finished" and not (run.run_dir / "report").exists()
    assert done(Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=False)) == 0
    again = Child(tmp_path / "s/fold-0", ["--model.x=0.3"], test=True)
    assert again.command()[2] == "test" and "--ckpt_path" in again.command()
    assert done(again) == 0 and again.command() is None
    assert (run.run_dir / "trained").read_text() == "once\n"
    assert (run.run_dir / "report/metrics.json").is_file()


def test_a_stopped_run_is_resumed(tmp_path):
    options = ["--model.pause=0.2"]
    run = Child(tmp_path / "s/a", options, test=False)
    assert run.poll() is None
    wait_for(lambda: run.run_dir and "\n1," in (run.run_dir / "metrics.csv").read_text())
    assert run.status() == "a epoch 3"
    run.stop()
    assert done(run) == 143 and read_state(run.run_dir) == "stopped"
    assert done(Child(tmp_path / "s/a", options, test=False)) == 0
    assert (run.run_dir / "trained").read_text() == "once\n"
    assert len((run.run_dir / "metrics.csv").read_text().splitlines()) == 5
    assert run.seconds() >= 1


def test_a_run_of_another_process_is_waited_for(tmp_path, capsys):
    options = ["--model.pause=0.3"]
    other = Child(tmp_path / "s/a", options, test=False)
    assert other.poll() is None
    run = Child(tmp_path / "s/a", options, test=False)
    assert run.poll() is None and "a: waiting for another process" in capsys.readouterr().out
    assert done(run) == 0 and run._process is None
    assert done(other) == 0 and (run.run_dir / "trained").read_text() == "once\n"
    assert not capsys.readouterr().out


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    run = Child(tmp_path / "s/a", ["--model.pause=9"], test=False)
    assert run.poll() is None and locks.take(run.folder / "lock") is None
    os.kill(run._process.pid, signal.SIGKILL)
    assert done(run) == -9
    os.close(locks.take(run.folder / "lock"))


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("--model.fail=true", 2, r"^model.fail is true\n\(complete output: s/a/output.log\)$"),
        ("--model.crash=true", 1, r"^exit code 1, last lines of its output:\n(?s:.*)RuntimeError: crashed\n\(complete"),
    ],
)
def test_a_failed_run_is_explained_by_its_last_output(tmp_path, option, code, words):
    assert done(Child(tmp_path / "s/a", ["--model.fail=true"], test=False)) == 2
    run = Child(tmp_path / "s/a", [option], test=False)
    assert done(run) == code and re.search(words, run.why())
    assert ("model.fail" in run.why()) == (code == 2)  # nothing of the first run


def test_the_reason_is_the_error_message_or_the_last_lines():
    assert reason("some warning\nerror: a is b:\nneeds c\n", 2) == "a is b:\nneeds c"
    assert reason("error: a\nand more\n", 1) == "exit code 1, last lines of its output:\nerror: a\nand more"
    assert reason("\n".join(map(str, range(100))), 1).splitlines()[1:] == list(map(str, range(85, 100)))


def test_children_find_the_same_modules_and_are_their_own_runs(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-parent")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    variables = environment("digits-seeds", devices="1,3", threads=2)
    assert "WANDB_RUN_ID" not in variables and variables["WANDB_RUN_GROUP"] == "digits-seeds"
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["OMP_NUM_THREADS"]) == ("1,3", "2")
    Path("beside_me.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    subprocess.run([sys.executable, "-c", "import beside_me"], cwd="/", env=environment(), check=True)
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    variables = environment("digits-seeds", threads=2)
    assert (variables["WANDB_RUN_GROUP"], variables["OMP_NUM_THREADS"]) == ("mine", "7")
