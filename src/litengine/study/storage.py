"""The storage of a search's trials: a file in the study's directory, or a database that machines share."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError

TIMEOUT = 30.0  # seconds to wait for a locked SQLite file
JOURNAL = "journal:"


def open_storage(url: str) -> BaseStorage:
    """Opens a database by its URL, or `journal:FILE`; makes it if it does not exist."""
    if url.startswith(JOURNAL):
        try:
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        except Exception as error:  # a damaged journal raises errors of any type
            raise StorageInternalError from error
    options = {"connect_args": {"timeout": TIMEOUT}} if url.startswith("sqlite:") else {}
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
    except (ArgumentError, DatabaseError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        if "is locked" in reason:
            reason += f" by another process for {TIMEOUT:.0f} s: end that, or use journal:FILE"
        raise ValueError(
            f"the storage {re.sub('//.*@', '//***@', url)} cannot be used: {reason} (--storage is sqlite:///FILE, "
            "postgresql://…, mysql://… with its driver installed, or journal:FILE)"
        ) from error
