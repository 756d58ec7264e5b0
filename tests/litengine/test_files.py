import os
from pathlib import Path

import pytest

from litengine.files import check_can_write, link, write_whole


def test_link_is_replaced_and_relative(tmp_path):
    for name in ("first", "second"):
        Path(f"runs/{name}").mkdir(parents=True)
        Path(f"runs/{name}/best.ckpt").write_text(name)
        assert link(tmp_path / f"runs/{name}/best.ckpt", "best.ckpt")
        assert Path("best.ckpt").read_text() == name
    assert os.readlink("best.ckpt") == "runs/second/best.ckpt"
    assert sorted(os.listdir()) == ["best.ckpt", "home", "runs"]  # nothing temporary is left


def test_link_is_never_missing_while_it_is_replaced(monkeypatch):
    Path("a").write_text("a")
    Path("b").write_text("b")
    link(Path("a"), "best.ckpt")
    seen = []
    symlink_to = Path.symlink_to

    def watched(self, target):
        seen.append(Path("best.ckpt").read_text())
        symlink_to(self, target)
        seen.append(Path("best.ckpt").read_text())

    monkeypatch.setattr(Path, "symlink_to", watched)
    link(Path("b"), "best.ckpt")
    assert [*seen, Path("best.ckpt").read_text()] == ["a", "a", "b"]


def test_link_to_what_is_gone_is_replaced_and_a_real_file_is_left_alone():
    Path("gone.ckpt").symlink_to("gone")
    Path("mine.ckpt").write_text("mine")
    Path("a").write_text("a")
    assert link(Path("a"), "gone.ckpt") and not link(Path("a"), "mine.ckpt")
    assert Path("gone.ckpt").read_text() == "a"
    assert Path("mine.ckpt").read_text() == "mine" and not Path("mine.ckpt").is_symlink()


def test_no_link_where_the_folder_takes_none(monkeypatch):
    def refuse(self, target):
        raise PermissionError(13, "Permission denied", str(self))

    Path("a").write_text("a")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert not link(Path("a"), "best.ckpt")
    assert not Path("best.ckpt").exists()


def test_a_file_that_cannot_be_written_is_named_with_the_reason(monkeypatch):
    Path("folder").mkdir()
    check_can_write(Path("a.csv"))
    for path, reason in {"folder": "it is a folder, name a file", "gone/a.csv": "there is no folder gone"}.items():
        with pytest.raises(OSError, match=f"cannot write {path}: {reason}"):
            check_can_write(Path(path))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OSError, match=r"cannot write a.csv: the folder \. is read-only"):
        check_can_write(Path("a.csv"))


def test_nothing_is_written_through_a_link():
    Path("mine.txt").write_text("mine")
    for name in ("report.csv", f".report.csv.{os.getpid()}"):  # the second is the temporary file
        Path(name).symlink_to("mine.txt")
    write_whole(Path("report.csv"), "new")
    assert Path("report.csv").read_text() == "new" and Path("mine.txt").read_text() == "mine"
    assert not Path("report.csv").is_symlink()
