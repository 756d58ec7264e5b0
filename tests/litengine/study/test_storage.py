import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from litengine.study import storage
from litengine.study.storage import explained, open_storage, url_of


@pytest.mark.parametrize("url", ["sqlite:///some.db", "journal:some.log"])
def test_what_is_kept_is_found_again(url):
    for expected in ([], [0.5]):
        study = optuna.create_study(storage=open_storage(url), study_name="s", load_if_exists=True)
        assert [trial.value for trial in study.trials] == expected
        study.tell(study.ask(), 0.5)
    assert Path("some.db").exists() or Path("some.log").exists()


def test_machines_may_start_at_the_same_moment():
    """Optuna makes the tables of a new database without a lock."""
    together = threading.Barrier(4)

    def open_with_others(_):
        together.wait()
        return open_storage("sqlite:///some.db").get_all_studies()

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(open_with_others, range(4))] == [[]] * 4


def test_by_default_it_is_a_file_in_the_directory_of_the_study(tmp_path):
    assert url_of(None, tmp_path) == f"sqlite:///{tmp_path}/optuna.db"
    assert url_of("journal:x", tmp_path) == "journal:x"


def test_a_locked_database_is_said_to_be(monkeypatch):
    open_storage("sqlite:///some.db")
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    other = sqlite3.connect("some.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(
        ValueError, match=r"the storage some.db has been locked by another process for 0 s.*journal:FILE"
    ):
        open_storage("sqlite:///some.db")
    other.close()
    open_storage("sqlite:///some.db")


def test_a_database_that_gets_locked_later_is_said_to_be(monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    study = optuna.create_study(storage=open_storage("sqlite:///some.db"))
    other = sqlite3.connect("some.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ValueError, match="some.db has been locked"), explained("sqlite:///some.db"):
        study.ask()
    other.close()


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("sqlite:///bad", b"no database at all, but long enough to be one" * 100),
        ("journal:bad", b"no journal\nat all\n"),
        ("journal:bad", b'{"op_code": 0, "worker_\n{}\n'),
        ("journal:bad", b"[1]\n[2]\n"),
        ("journal:bad", b"\xff\xfe\n\xff\n"),
    ],
)
def test_a_damaged_file_is_said_to_be(url, content):
    Path("bad").write_bytes(content)
    with pytest.raises(ValueError, match=r"the storage bad is damaged \(.*put a copy of it in its place"):
        open_storage(url)


def test_a_database_damaged_inside_is_said_to_be():
    study = optuna.create_study(storage=open_storage("sqlite:///bad.db"), study_name="s")
    for _ in range(50):
        study.tell(study.ask(), 0.5)
    del study
    content = bytearray(Path("bad.db").read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    Path("bad.db").write_bytes(content)
    with pytest.raises(ValueError, match=r"the storage bad.db is damaged \(.*malformed"):
        open_storage("sqlite:///bad.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("search.db", "--storage is search.db: write sqlite:///FILE"),
        ("nosuch://host/db", "--storage is nosuch://host/db: write sqlite:///FILE"),
        ("sqlite:///not/there/some.db", "storage not/there/some.db cannot be used: .*unable to open database file"),
        ("journal:not/there/some.log", "storage not/there/some.log cannot be used: No such file or directory"),
        ("postgresql://me:secret@host/db", r"storage postgresql://me:\*\*\*@host/db needs a package that is not inst"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(url, words):
    with pytest.raises(ValueError, match=words) as error:
        open_storage(url)
    assert "secret" not in str(error.value)
