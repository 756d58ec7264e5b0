"""Runs in processes of their own, one and several at a time."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from studies import wait_for

from litengine.study.child import Child, environment, reason, take_lock
from litengine.study.workers import run_all, shares
from litengine.training.run_directory import read_state

pytestmark = pytest.mark.usefixtures("study")  # fake_fit.py trains


def done(run: Child) -> int:
    codes: list[int | None] = []
    wait_for(lambda: codes.append(run.poll()) or codes[-1] is not None)
    return codes[-1]


def test_a_run_is_trained_once_and_tested_if_asked(tmp_path):
    folder = tmp_path / "s/fold-0"
    run = Child(folder, ["--model.x=0.3"])
    assert run.run_dir is None and done(run) == 0 and run.command() is None
    assert read_state(run.run_dir) == "finished" and not (run.run_dir / "report").exists()
    assert done(Child(folder, ["--model.x=0.3"])) == 0
    again = Child(folder, ["--model.x=0.3"], test=True)
    assert again.command()[2] == "test" and done(again) == 0 and again.command() is None
    assert (run.run_dir / "trained").read_text() == "once\n" and (run.run_dir / "report/metrics.json").is_file()


def test_a_stopped_run_is_resumed(tmp_path):
    run = Child(tmp_path / "s/a", ["--model.until=go"])
    assert run.poll() is None
    wait_for(lambda: run.run_dir and "\n1," in (run.run_dir / "metrics.csv").read_text())
    run.stop()
    assert done(run) == 143 and read_state(run.run_dir) == "stopped"
    Path("go").touch()
    assert done(Child(tmp_path / "s/a", ["--model.until=go"])) == 0
    assert (run.run_dir / "trained").read_text() == "once\n"
    assert len((run.run_dir / "metrics.csv").read_text().splitlines()) == 5


def test_a_run_of_another_process_is_waited_for_until_that_is_killed(tmp_path, capsys):
    first, second = (Child(tmp_path / "s/a", ["--model.until=go"]) for _ in range(2))
    assert first.poll() is None and second.poll() is None and take_lock(first.folder / "lock") is None
    assert "a: waiting for another process" in capsys.readouterr().out
    wait_for(lambda: first.run_dir and "\n1," in (first.run_dir / "metrics.csv").read_text())
    assert second.poll() is None and not capsys.readouterr().out
    os.kill(first._process.pid, signal.SIGKILL)
    assert done(first) == -9
    Path("go").touch()
    assert done(second) == 0 and (second.run_dir / "trained").read_text() == "once\n"


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("--model.fail=true", 2, r"^model.fail is true\n\(complete output: s/a/output.log\)$"),
        ("--model.crash=true", 1, r"^exit code 1, last lines of its output:\n(?s:.*)RuntimeError: crashed\n\(complete"),
    ],
)
def test_a_failed_run_is_explained_by_its_last_output(tmp_path, option, code, words):
    assert done(Child(tmp_path / "s/a", ["--model.fail=true"])) == 2
    run = Child(tmp_path / "s/a", [option])
    assert done(run) == code and re.search(words, run.why())
    assert ("model.fail" in run.why()) == (code == 2)  # nothing of the first run
    assert len(reason("error\n" * 100, 1).splitlines()) == 16


def test_runs_find_the_same_modules_and_are_their_own_in_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-parent")
    Path("beside_me.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert "WANDB_RUN_ID" not in environment()
    subprocess.run([sys.executable, "-c", "import beside_me"], cwd="/", env=environment(), check=True)


@pytest.mark.parametrize(
    ("given", "count", "number", "expected"),
    [
        (None, 4, 2, ["0,2", "1,3"]),
        (None, 3, 2, ["0,2", "1"]),
        ("4, GPU-7", 2, 3, ["4", "GPU-7", "4"]),
        ("", 0, 2, [None, None]),
    ],
)
def test_every_gpu_is_used_and_every_worker_has_one(given, count, number, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    variables = shares(number)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in variables] == expected
    assert {each["OMP_NUM_THREADS"] for each in variables} == {str(max(1, os.cpu_count() // number))}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert shares(number)[0]["OMP_NUM_THREADS"] == "7"


class Polled(Child):
    """A child that ends after some polls, or when it was asked to stop `needed` times; then it raises a signal."""

    def __init__(self, polls, needed=1, number=None):
        super().__init__(Path(str(polls)), [])
        self.polls, self.needed, self.number, self.stops = polls, needed, number, 0

    def poll(self):
        self.polls -= 1
        if self.number:
            signal.raise_signal(self.number)
        return 0 if self.polls <= 0 or self.stops >= self.needed else None

    def stop(self):
        self.stops += 1


def test_at_most_so_many_are_active_and_all_end():
    active, most, ended = set(), [], []

    def children():
        for polls in (3, 1, 2, 1, 1):
            child = Polled(polls)
            active.add(id(child))
            most.append(len(active))
            yield child

    def end(child):
        active.remove(id(child))
        ended.append(child.name)
        return True

    assert run_all(children(), 2, end) is None
    assert ended == ["1", "3", "2", "1", "1"] and max(most) == 2


def test_a_failure_stops_the_others_and_starts_no_more():
    children = [Polled(1), Polled(99), Polled(98)]
    waiting, ended = iter(children), []
    run_all(waiting, 2, lambda child: ended.append(child) or False)
    assert ended == children[:2] and children[1].stops and next(waiting) is children[2]


def test_active_children_are_stopped_after_an_exception():
    children = [Polled(99), Polled(1)]
    with pytest.raises(ZeroDivisionError):
        run_all(iter(children), 2, lambda child: 1 / 0)
    assert [child.stops for child in children] == [1, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_is_passed_on(number):
    child = Polled(99, needed=2, number=number)
    before = signal.getsignal(number)
    assert run_all(iter([child]), 1, lambda child: True) == number
    assert child.stops >= 2 and signal.getsignal(number) is before
