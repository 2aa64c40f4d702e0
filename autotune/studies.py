"""Where Optuna's studies live: in the same database as the measurements."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from autotune.db.errors import StoreError
from autotune.db.failures import damaged_row, one_line_errors
from autotune.db.store import Store


def open_storage(store: Store) -> BaseStorage:
    """Optuna's tables, in the same database as the measurements.

    Raises:
        StoreError: they were made by an Optuna whose tables look different.
    """
    sqlite = store.connection_url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    with store.claim("the tables of studies", wait=True):  # two processes that create them fail
        try:
            return RDBStorage(store.connection_url, engine_kwargs=options)
        except RuntimeError as error:  # says which versions, and how to bring one of them up to date
            raise StoreError(f"database {store.name} holds studies that cannot be used: {error}") from error


@contextmanager
def storage_errors(store: Store) -> Iterator[None]:
    """Optuna wraps what the database's driver says; the user gets the one line that the store would give.

    Raises:
        StoreError: the database failed.
    """
    with one_line_errors(store.name):
        try:
            yield
        except StorageInternalError as error:
            raise error.__cause__ or error from None
        except JSONDecodeError as error:  # of a study: the store reads its own rows
            raise damaged_row(store.name, error) from error
