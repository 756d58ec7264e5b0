import os
from datetime import datetime
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("name", ["report", "wandb", "export", "metrics.csv", "state.json", ".lock"])
def test_a_run_with_links_fifos_or_endless_files_is_not_used(name, tmp_path):
    directory, entry = tmp_path / "runs/cnn/now", tmp_path / "runs/cnn/now" / name
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").touch()
    best = directory / "checkpoints/best.ckpt"
    assert run.run_dir_of(best) == directory
    for make in (lambda: entry.symlink_to(tmp_path), lambda: os.mkfifo(entry), lambda: truncate(entry, 2**37)):
        make()
        assert run.run_dir_of(best) is None
        entry.unlink()


def truncate(path, size):
    path.touch()
    os.truncate(path, size)


SETTINGS = {"trainer": {}}


def test_a_bad_state_file_stops_nothing_and_counts_as_unfinished():
    good, bad = run.new_run_dir("runs", "a", SETTINGS), run.new_run_dir("runs", "b", SETTINGS)
    run.write_state(good, "finished")
    for content in ("", '{"sta', "[]", "\0"):
        (bad / "state.json").write_text(content)
        assert run.read_state(bad) == "running" and run.find("last", "runs") == bad
    (bad / "config.yaml").unlink()
    assert run.find("last", "runs") == good  # without a config it is not a run


def test_every_flipped_bit_of_a_config_is_found_or_changes_nothing(tmp_path):
    settings = {"model": {"lr": 0.125, "names": ["a", None]}, "trainer": {"max_epochs": 18}}
    run.write_config(tmp_path, settings)
    file, refused = tmp_path / "config.yaml", 0
    intact = file.read_bytes()
    for bit in range(8 * len(intact)):
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            assert run.read_config(tmp_path) == settings
        except (ValueError, yaml.YAMLError):
            refused += 1
    assert refused > 8 * intact.index(run.CHECKSUM.encode())


def test_a_config_without_a_checksum_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}")  # of an older run, or edited
    assert run.read_config(tmp_path) == {"trainer": {"max_epochs": 3}}


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b", "?", "-x", "a b", ".hidden", "größe"])
def test_a_name_that_a_fit_accepts_is_found(name):
    directory = run.new_run_dir("runs", name, SETTINGS)
    assert run.find("auto", "runs", name) == run.find("last", "runs") == directory
    assert run.find("auto", "runs", "other") is None


@pytest.mark.parametrize("name", ["", ".", "..", "exp/a", "a\\b", "a\nb", "a" * 201])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="choose a name of 1 to 200 printable characters"):
        run.new_run_dir("runs", name)


def test_a_given_directory_that_holds_a_run_is_refused():
    run.new_run_dir("runs", "a", SETTINGS, given="out")
    with pytest.raises(ValueError, match="trainer.default_root_dir out holds a run"):
        run.new_run_dir("runs", "a", SETTINGS, given="out")


def test_best_belongs_to_the_run_that_started_last():
    for name in ("first", "second"):
        directory = run.new_run_dir("runs", name, SETTINGS)
        (directory / "checkpoints").mkdir()
        (directory / "checkpoints/best.ckpt").touch()
        assert run.link_best(directory / "checkpoints/best.ckpt")
    (first,) = Path("runs/first").glob("*/checkpoints/best.ckpt")
    assert not run.link_best(first.absolute())
    (directory / "data").symlink_to("..")  # a run with a link in it is one too
    assert run.run_dir_of("best.ckpt") is None and not run.link_best(first.absolute())
    assert Path("best.ckpt").resolve() == directory / "checkpoints/best.ckpt"


def test_a_fifo_in_the_run_of_a_stranger_does_not_delay_the_link():
    stranger, ours = Path("stranger/run/checkpoints/best.ckpt").absolute(), run.new_run_dir("runs", "a", SETTINGS)
    for checkpoint in (stranger, ours / "checkpoints/best.ckpt"):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    link(stranger, "best.ckpt")
    os.mkfifo(stranger.parent.parent / "state.json")
    assert run.link_best(checkpoint) and Path("best.ckpt").resolve() == checkpoint


def test_after_the_clock_was_set_back_the_newest_run_is_still_the_newest(monkeypatch):
    first = run.new_run_dir("runs", "a", SETTINGS)
    monkeypatch.setattr(run.time, "time", lambda: 1e9)
    second = run.new_run_dir("runs", "a", SETTINGS)
    earlier = second.rename(second.with_name("2001-09-09_01-46-40"))  # its name is older than the first one's
    assert run.runs_in("runs") == [first, earlier]
    (earlier / "checkpoints").mkdir()
    (earlier / "checkpoints/best.ckpt").touch()
    assert run.link_best(earlier / "checkpoints/best.ckpt")


def test_a_start_that_is_no_number_is_read_from_the_name():
    for name in ("first", "second"):
        directory = run.new_run_dir("runs", name, SETTINGS)
        (directory / "checkpoints").mkdir()
        (directory / "checkpoints/best.ckpt").touch()
    run.link_best(directory / "checkpoints/best.ckpt")
    for content in ("null", '"abc"'):
        (directory / "state.json").write_text(f'{{"started": {content}}}')
        assert run.link_best(directory / "checkpoints/best.ckpt")


def test_a_run_that_cannot_be_written_is_named_or_passed_over(monkeypatch):
    directory = run.new_run_dir("runs", "a", SETTINGS)
    run.disown(directory)
    (directory / ".lock").unlink()
    (directory / ".lock").mkdir()  # cannot be opened, by root neither
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run.find("auto", "runs", "a") is None
    with pytest.raises(ValueError, match=r"cannot be written by this user: .* --ckpt_path runs/a/.*/last\.ckpt"):
        run.find("last", "runs")


def test_a_fit_that_never_trained_leaves_nothing():
    directory = run.new_run_dir("runs", "a", SETTINGS)
    run.discard(directory)
    assert not Path("runs").exists()
