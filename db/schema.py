"""The schema's revision: read it, refuse what is foreign or newer, bring the rest up to date."""

import time
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from autotune.db.address import Address
from autotune.db.errors import ELSEWHERE, StoreError, StoreNotFoundError
from autotune.db.failures import SQLITE_FAILURES
from autotune.db.tables import Base

# Optuna keeps its studies in the same database, and owns the usual name.
VERSION_TABLE = "autotune_alembic_version"

# Oldest first, as in migrations/versions; listed here so that opening a database need not load Alembic.
REVISIONS = ("0001", "0002", "0003", "0004")

# Any number does, as long as every process asks PostgreSQL for the same one.
POSTGRESQL_LOCK = 0x6175746F


def require_current(engine: Engine, address: Address) -> None:
    """Check that the database can be read as it is.

    Raises:
        StoreNotFoundError: it is empty.
        StoreError: it is foreign, or of a newer or older schema.
    """
    with engine.connect() as connection:
        found = _revision(connection, address)
    if found is None:
        raise StoreNotFoundError(f"database {address.name} is empty; run `autotune tune` first, or {ELSEWHERE}")
    if found != REVISIONS[-1]:
        raise StoreError(
            f"database {address.name} has schema revision {found}, older than this autotune reads ({REVISIONS[-1]}); "
            f"run `autotune tune` on it once to bring it up to date, or {ELSEWHERE}"
        )


def upgrade(engine: Engine, address: Address, lock_timeout_s: float) -> None:
    """Bring the database to the newest revision, and make sure that it can be written.

    Any number of processes may do this at once on the same new database: one migrates, the others wait.

    Raises:
        StoreError: it is foreign, or of a newer schema.
    """
    with engine.connect() as connection:
        found = _revision(connection, address)
        connection.rollback()
        if found is None and address.is_sqlite:
            _enable_wal(connection, lock_timeout_s)
        _lock(connection)
        if _revision(connection, address) != REVISIONS[-1]:
            _migrate(connection)
        # What cannot be written is refused now, not after the first measurement. No row matches, so nothing changes.
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = version_num WHERE 1 = 0"))
        connection.commit()


def _revision(connection: Connection, address: Address) -> str | None:
    """The revision found, None in a database without tables."""
    tables = set(inspect(connection).get_table_names())
    if address.file is not None:
        _require_whole_pages(connection, address.file)
    if VERSION_TABLE not in tables:
        # A file belongs to one program; a server's database may be shared, as long as the names differ.
        strangers = tables if address.is_sqlite else tables & set(Base.metadata.tables)
        if strangers:
            raise StoreError(
                f"database {address.name} holds tables of another program ({', '.join(sorted(strangers)[:3])}), "
                f"and was left as it is; {ELSEWHERE}"
            )
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    if found is not None and found not in REVISIONS:
        raise StoreError(
            f"database {address.name} has schema revision {found}, newer than this autotune knows ({REVISIONS[-1]}); "
            f"upgrade autotune, or {ELSEWHERE}"
        )
    return found


def _require_whole_pages(connection: Connection, file: Path) -> None:
    """Refuse a file that was cut off within a page, which SQLite would read as if zeros followed."""
    log = Path(f"{file}-wal")
    if log.exists() and log.stat().st_size:
        return  # what the log holds, SQLite repairs
    page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    if file.stat().st_size % page_bytes:
        raise StoreError(f"database {file} {SQLITE_FAILURES['SQLITE_CORRUPT']}")


def _enable_wal(connection: Connection, lock_timeout_s: float) -> None:
    """Let readers and one writer work at the same time; the file remembers."""
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            # SQLite does not wait here for another process that does the same.
            locked = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not locked or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _lock(connection: Connection) -> None:
    """Keep other migrations out until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": POSTGRESQL_LOCK})


def _migrate(connection: Connection) -> None:
    # Imported here because Alembic takes a third of a second to load, and most openings find nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "autotune.db:migrations")
    command.upgrade(config, "head")
