"""Connections to a database, set up so that what is committed stays."""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import NoSuchModuleError

from autotune.db.address import Address
from autotune.db.errors import ELSEWHERE, StoreError, StoreNotFoundError


def connect(address: Address, *, read_only: bool, lock_timeout_s: float) -> Engine:
    """An engine for the address; folders above a new file are created.

    Raises:
        StoreNotFoundError: a file is to be read, and does not exist.
        StoreError: the driver is unknown or not installed, or the folder cannot be created.
    """
    if not address.is_sqlite:
        return _server_engine(address)
    url = address.url
    if address.file is not None:
        _require_place(address.file, read_only=read_only)
        url = _readable(address.file, url) if read_only else url
    engine = create_engine(url, connect_args={"timeout": lock_timeout_s})

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a power cut, too, leaves every committed measurement
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    return engine


def _server_engine(address: Address) -> Engine:
    try:
        # A search may sit idle for longer than a server keeps a connection.
        return create_engine(address.url, pool_pre_ping=True)
    except NoSuchModuleError as error:
        raise StoreError(
            f"database {address.name} is of a kind that SQLAlchemy does not know, {address.url.drivername!r}; "
            f"use sqlite, postgresql+psycopg or mysql+pymysql, or install its dialect"
        ) from error
    except ModuleNotFoundError as error:
        raise StoreError(
            f"database {address.name} needs the Python package {error.name!r}, which is not installed; "
            f"install it, name another driver (postgresql+psycopg://...), or {ELSEWHERE}"
        ) from error


def _require_place(file: Path, *, read_only: bool) -> None:
    try:
        if not read_only:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.exists():
            raise StoreNotFoundError(f"database {file} does not exist; run `autotune tune` first, or {ELSEWHERE}")
    except OSError as error:
        raise StoreError(
            f"database {file} cannot be reached ({error.filename}: {error.strerror}), but must be in a folder "
            f"that can be written; {ELSEWHERE}"
        ) from error


def _readable(file: Path, url: URL) -> URL:
    """The URL that reads an existing file without ever creating it."""
    # SQLite keeps two files beside one in WAL mode while it is open. Where they can neither be found nor created,
    # nobody is writing, and the file can be read as it stands.
    settled = not os.access(file.parent, os.W_OK) and not Path(f"{file}-wal").exists()
    query = {"immutable": "1"} if settled else {"mode": "rw"}
    return url.set(database=f"file:{quote(str(file))}", query={"uri": "true", **query})
