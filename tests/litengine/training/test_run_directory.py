import os
from datetime import datetime
from pathlib import Path

import pytest

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


def test_link_is_replaced_and_relative(tmp_path):
    for name in ("first", "second"):
        Path(f"runs/{name}").mkdir(parents=True)
        Path(f"runs/{name}/best.ckpt").write_text(name)
        assert run.link(tmp_path / f"runs/{name}/best.ckpt", "best.ckpt")
        assert Path("best.ckpt").read_text() == name
    assert os.readlink("best.ckpt") == "runs/second/best.ckpt"
    assert sorted(os.listdir()) == ["best.ckpt", "home", "runs"]  # nothing temporary is left


def test_link_is_never_missing_while_it_is_replaced(monkeypatch):
    Path("a").write_text("a")
    Path("b").write_text("b")
    run.link(Path("a"), "best.ckpt")
    seen = []
    symlink_to = Path.symlink_to

    def watched(self, target):
        seen.append(Path("best.ckpt").read_text())
        symlink_to(self, target)
        seen.append(Path("best.ckpt").read_text())

    monkeypatch.setattr(Path, "symlink_to", watched)
    run.link(Path("b"), "best.ckpt")
    assert [*seen, Path("best.ckpt").read_text()] == ["a", "a", "b"]


def test_link_to_what_is_gone_is_replaced():
    Path("best.ckpt").symlink_to("gone")
    Path("a").write_text("a")
    assert run.link(Path("a"), "best.ckpt")
    assert Path("best.ckpt").read_text() == "a"


def test_real_file_is_left_alone():
    Path("best.ckpt").write_text("mine")
    Path("a").write_text("a")
    assert not run.link(Path("a"), "best.ckpt")
    assert Path("best.ckpt").read_text() == "mine" and not Path("best.ckpt").is_symlink()


def test_run_dir_of_a_checkpoint_is_found_through_links(tmp_path):
    directory = tmp_path / "runs/cnn/now"
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").touch()
    last, best = directory / "checkpoints/last.ckpt", directory / "checkpoints/best.ckpt"
    last.touch()
    best.symlink_to("last.ckpt")
    run.link(best, "best.ckpt")
    assert run.run_dir_of("best.ckpt") == run.run_dir_of(str(best)) == run.run_dir_of(last) == directory
    Path("stranger.ckpt").touch()
    assert run.run_dir_of("stranger.ckpt") is None


def test_relative_is_what_one_would_type(tmp_path):
    assert run.relative(tmp_path / "runs/a") == "runs/a"
    assert run.relative("runs/a") == "runs/a"
    assert run.relative(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")


def test_no_link_where_the_folder_takes_none(monkeypatch):
    def refuse(self, target):
        raise PermissionError(13, "Permission denied", str(self))

    Path("a").write_text("a")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert not run.link(Path("a"), "best.ckpt")
    assert not Path("best.ckpt").exists()
