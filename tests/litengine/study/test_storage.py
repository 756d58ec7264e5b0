import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from litengine.study import storage
from litengine.study.storage import explained, open_storage


@pytest.mark.parametrize("url", ["sqlite:///some.db", "journal:some.log"])
def test_trials_are_found_again(url):
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


def test_a_locked_database_is_explained(monkeypatch):
    monkeypatch.setattr(storage, "TIMEOUT", 0.1)
    study = optuna.create_study(storage=open_storage("sqlite:///some.db"))
    other = sqlite3.connect("some.db")
    other.execute("BEGIN EXCLUSIVE")
    words = r"the storage some.db cannot be used: .*is locked by another process.*use journal:FILE"
    with pytest.raises(ValueError, match=words), explained("sqlite:///some.db"):
        study.ask()
    with pytest.raises(ValueError, match=words):
        open_storage("sqlite:///some.db")
    other.close()
    open_storage("sqlite:///some.db")


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
def test_a_damaged_file_is_named(url, content):
    Path("bad").write_bytes(content)
    with pytest.raises(ValueError, match=r"the storage bad cannot be used: .*"):
        open_storage(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("search.db", "--storage is search.db: write sqlite:///FILE"),
        ("nosuch://host/db", "--storage is nosuch://host/db: write sqlite:///FILE"),
        ("sqlite:///not/there/some.db", "storage not/there/some.db cannot be used: .*unable to open database file"),
        ("journal:not/there/some.log", "storage not/there/some.log cannot be used: .*No such file or directory"),
        ("postgresql://me:secret@host/db", r"postgresql://me:\*\*\*@host/db needs a package that is not installed"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(url, words):
    with pytest.raises(ValueError, match=words) as error:
        open_storage(url)
    assert "secret" not in str(error.value)
