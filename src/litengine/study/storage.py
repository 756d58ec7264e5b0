"""The storage of a search's trials: a file in the study's directory, or a database that machines share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from litengine.files import relative

TIMEOUT = 30.0  # seconds to wait for a locked SQLite file
SQLITE, JOURNAL = "sqlite:///", "journal:"


def open_storage(url: str) -> BaseStorage:
    """Opens a database by its URL, or `journal:FILE`; makes it if it does not exist.

    Raises:
        ValueError: if that fails, with the reason.
    """
    with explained(url):
        if url.startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        options = {"connect_args": {"timeout": TIMEOUT}} if url.startswith(SQLITE) else {}
        for seconds in (0.5, 1, 2):
            try:
                return RDBStorage(url, engine_kwargs=options)
            except DatabaseError as error:  # machines that start together make the same tables
                if "already exists" not in str(error) and "UNIQUE" not in str(error).upper():
                    raise
                time.sleep(seconds)
        return RDBStorage(url, engine_kwargs=options)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns the errors of a storage into a ValueError that names it, without its password, and the reason."""
    try:
        yield
    except (ArgumentError, ImportError) as error:
        message = f"--storage is {url}: write sqlite:///FILE, postgresql://…, mysql://… or journal:FILE"
        raise ValueError(message) from error
    except (DatabaseError, StorageInternalError, OSError) as error:
        name = relative(url.removeprefix(SQLITE).removeprefix(JOURNAL))
        if not url.startswith((SQLITE, JOURNAL)):
            name = make_url(url).render_as_string()
        reason = str(error.__cause__ or error).splitlines()[0]
        if "is locked" in reason:
            reason += f" by another process for {TIMEOUT:.0f} s: end that, or use journal:FILE"
        raise ValueError(f"the storage {name} cannot be used: {reason}") from error
