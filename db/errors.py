"""The errors of the database floor; every message names the value, the limit and the remedy."""

from autotune.strategies.errors import AutotuneError

ELSEWHERE = "name another database with --db"


class StoreError(AutotuneError):
    """A database that cannot be opened, read or written."""


class StoreNotFoundError(StoreError):
    """A database that was to be read, but does not exist or was never written to."""
