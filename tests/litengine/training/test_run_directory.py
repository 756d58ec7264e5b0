from datetime import datetime
from pathlib import Path

import pytest

from litengine.files import link
from litengine.training import run_directory as run


@pytest.fixture
def stopped_clock(monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 7, 5, 13, 4, 9)

    monkeypatch.setattr(run, "datetime", Clock)


@pytest.mark.usefixtures("stopped_clock")
def test_runs_of_one_second_get_directories_of_their_own(tmp_path):
    made = [run.new_run_dir("runs", "cnn") for _ in range(3)]
    assert made == [
        tmp_path / "runs/cnn" / name
        for name in ("2026-07-05_13-04-09", "2026-07-05_13-04-09-1", "2026-07-05_13-04-09-2")
    ]
    assert all(directory.is_dir() for directory in made)
    assert run.new_run_dir("runs", "other").name == "2026-07-05_13-04-09"


@pytest.mark.usefixtures("stopped_clock")
def test_processes_that_rank_0_starts_share_its_directory(monkeypatch):
    first = run.new_run_dir("runs", "cnn")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run.new_run_dir("runs", "cnn") == first
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run.new_run_dir("runs", "cnn") != first


def test_run_dir_of_a_checkpoint_is_found_through_links(tmp_path):
    directory = tmp_path / "runs/cnn/now"
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").touch()
    last, best = directory / "checkpoints/last.ckpt", directory / "checkpoints/best.ckpt"
    last.touch()
    best.symlink_to("last.ckpt")
    link(best, "best.ckpt")
    assert run.run_dir_of("best.ckpt") == run.run_dir_of(str(best)) == run.run_dir_of(last) == directory
    Path("stranger.ckpt").touch()
    assert run.run_dir_of("stranger.ckpt") is None
