"""Claims: of the processes at work on one database, one has a thing to itself; a claim ends with its holder.

However the holder ends, nothing has to be given back, and no clock decides: on PostgreSQL a claim is an advisory lock
of a connection of its own, on a SQLite file a lock on a small file beside it, as SQLite's own locks are the operating
system's. Other databases, databases in memory and Windows have no claims: there everybody gets what they ask for.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from glob import escape
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from autotune.db.address import Address
from autotune.db.errors import ELSEWHERE, StoreError

MARK = "-claim-"  # in the names of the files, after the database's

# What a server does about a machine that has vanished: asked after half a minute, given up after another one.
KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}


StillHeld = Callable[[], bool]


def claim(engine: Engine, address: Address, name: str, *, wait: bool) -> AbstractContextManager[StillHeld | None]:
    """Have ``name`` to oneself while the block lasts, or None if another one has it; with ``wait`` one gets it.

    What the block is given tells whether the claim still holds: a server drops it when it loses the connection.
    """
    digest = hashlib.sha256(name.encode()).digest()
    if engine.dialect.name == "postgresql":
        return _advisory_lock(engine, int.from_bytes(digest[:8], "big", signed=True), wait=wait)
    if address.file is not None and sys.platform != "win32":
        return _file_lock(Path(f"{address.file}{MARK}{digest.hex()[:12]}"), wait=wait)
    return nullcontext(_always)


def remove_abandoned(address: Address) -> None:
    """Remove the files of claims whose holders were killed; whose holder lives stays."""
    if address.file is None or sys.platform == "win32":
        return
    for path in address.file.parent.glob(f"{escape(address.file.name)}{MARK}*"):
        with suppress(StoreError), _file_lock(path, wait=False):
            pass


def _always() -> bool:
    return True


@contextmanager
def _advisory_lock(engine: Engine, key: int, *, wait: bool) -> Iterator[StillHeld | None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # so that the end of the block closes it, and the server lets go
        for name, value in KEEPALIVES.items():
            connection.execute(text(f"SET {name} = {value}"))
        if wait:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            ours = True
        else:
            ours = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))
        yield partial(_is_connected, connection) if ours else None


def _is_connected(connection: Connection) -> bool:
    """Whether it is still the connection that the server gave the lock to."""
    try:
        return not connection.invalidated and bool(connection.scalar(text("SELECT true")))
    except DBAPIError:
        return False


@contextmanager
def _file_lock(path: Path, *, wait: bool) -> Iterator[StillHeld | None]:
    try:
        descriptor = _locked(path, wait=wait)
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror}; make its folder writable, or {ELSEWHERE}") from error
    if descriptor is None:
        yield None
        return
    try:
        yield _always
    finally:
        with suppress(OSError):  # a file that stays is no claim, and is removed when there is a chance
            path.unlink()
        os.close(descriptor)


def _locked(path: Path, *, wait: bool) -> int | None:
    """A descriptor of the locked file; None if another process has it."""
    import fcntl  # not on Windows

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Who had it has removed the file, and a third process may have made another one.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # removed between the two looks
            pass
        os.close(descriptor)
