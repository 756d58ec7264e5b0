"""The storage of a search's trials: a file in the study's directory, or a database that machines share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError

from litengine.files import relative

TIMEOUT = 30.0  # seconds to wait for a locked SQLite file
SQLITE, JOURNAL = "sqlite:///", "journal:"


def open_storage(url: str) -> BaseStorage:
    """Opens a database by its URL, or `journal:FILE`; makes it if it does not exist.

    Raises:
        ValueError: if that fails, with the reason.
    """
    if url.startswith(JOURNAL):
        try:
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        except Exception as error:  # a damaged journal raises errors of any type
            name = relative(url.removeprefix(JOURNAL))
            raise ValueError(f"the storage {name} cannot be used: {type(error).__name__}: {error}") from error
    options = {"connect_args": {"timeout": TIMEOUT}} if url.startswith(SQLITE) else {}
    with explained(url):
        for seconds in (0.5, 1, 2):
            try:
                return RDBStorage(url, engine_kwargs=options)
            except DatabaseError as error:  # machines that start together make the same tables
                if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                    raise
                time.sleep(seconds)
        return RDBStorage(url, engine_kwargs=options)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns the errors of a storage into a ValueError that names it, without its password, and the reason."""
    try:
        yield
    except ArgumentError as error:
        message = f"--storage is {url}: write sqlite:///FILE, postgresql://…, mysql://… or journal:FILE"
        raise ValueError(message) from error
    except (DatabaseError, StorageInternalError, ImportError) as error:
        name = relative(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else make_url(url).render_as_string()
        reason = str(error.__cause__ or error).splitlines()[0]
        if isinstance(error, ImportError):
            raise ValueError(f"the storage {name} needs a package that is not installed: {error}") from error
        if "is locked" in reason:
            reason += f" by another process for {TIMEOUT:.0f} s: end that, or use journal:FILE"
        raise ValueError(f"the storage {name} cannot be used: {reason}") from error
