"""Where the trials of a search are kept: a file of its own, or a database that machines share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from litengine.training.run_directory import relative

if TYPE_CHECKING:
    import optuna

PATIENCE = 30.0  # seconds that a locked SQLite file is waited for
JOURNAL = "journal:"


def url_of(storage: str | None, directory: Path) -> str:
    """The storage as given, or the file in the study's directory."""
    return storage or f"sqlite:///{directory / 'optuna.db'}"


def open_storage(url: str) -> "optuna.storages.BaseStorage":
    """Opens a database by its URL, or `journal:FILE`; makes it where it is missing.

    Raises:
        ValueError: where that cannot be done, and why.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    if url.startswith(JOURNAL):
        name = relative(url.removeprefix(JOURNAL))
        try:
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        except OSError as error:
            raise ValueError(f"the storage {name} cannot be used: {error.strerror}") from error
        except Exception as error:  # whatever its lines led to
            raise ValueError(_damaged(name, f"{type(error).__name__}: {error}")) from error
    try:
        with explained(url):
            return _open_database(url)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(
            f"--storage is {url}: write sqlite:///FILE, postgresql://…, mysql://… or journal:FILE"
        ) from error
    except ImportError as error:
        raise ValueError(f"the storage {_name(url)} needs a package that is not installed: {error}") from error


def _open_database(url: str) -> "optuna.storages.BaseStorage":
    from optuna import storages
    from sqlalchemy.exc import DatabaseError, IntegrityError

    options = {"connect_args": {"timeout": PATIENCE}} if _is_file(url) else {}
    for seconds in (0.5, 1, 2):
        try:
            return storages.RDBStorage(url, engine_kwargs=options)
        except DatabaseError as error:  # two machines that start together both make its tables
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(seconds)
    return storages.RDBStorage(url, engine_kwargs=options)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns what a database raises into a ValueError that says what is wrong with it."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if "is locked" in reason:
            raise ValueError(
                f"the storage {_name(url)} has been locked by another process for {PATIENCE:.0f} s: end that (a "
                "browser of databases?), or use journal:FILE, which suits network disks"
            ) from error
        if "not a database" in reason or "malformed" in reason:
            raise ValueError(_damaged(_name(url), reason)) from error
        raise ValueError(f"the storage {_name(url)} cannot be used: {reason}") from error


def _damaged(name: str, reason: str) -> str:
    return f"the storage {name} is damaged ({reason}): put a copy of it in its place, or choose another"


def _is_file(url: str) -> bool:
    return url.startswith("sqlite:///")


def _name(url: str) -> str:
    """Without the password that may stand in it."""
    from sqlalchemy import make_url

    return relative(url.removeprefix("sqlite:///")) if _is_file(url) else make_url(url).render_as_string()
