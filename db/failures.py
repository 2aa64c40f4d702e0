"""What the database driver complains about, in one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError

from autotune.db.errors import ELSEWHERE, StoreError

SQLITE_FAILURES = {
    "SQLITE_NOTADB": f"is not a SQLite database, and was left as it is; {ELSEWHERE}",
    "SQLITE_CORRUPT": f"is damaged, and was left as it is; restore a copy, save the rest with `sqlite3 .recover`, "
    f"or {ELSEWHERE}",
    "SQLITE_READONLY": f"is read-only; make file and folder writable, or {ELSEWHERE}",
    "SQLITE_CANTOPEN": f"cannot be opened, but must be a file in a folder that can be written; {ELSEWHERE}",
    "SQLITE_BUSY": f"is locked by another process, which did not let go in time; wait for it to end, or {ELSEWHERE}",
    "SQLITE_FULL": "cannot grow, because its disk is full; free some space and run the same command again",
    "SQLITE_IOERR": f"cannot be read or written ({{detail}}); check its disk, or {ELSEWHERE}",
}
OTHER_FAILURE = f"does not answer as it should ({{detail}}); check server, name and rights, or {ELSEWHERE}"


@contextmanager
def readable_rows(name: str) -> Iterator[None]:
    """Turn what the content of a row can raise into a `StoreError`: no JSON, a word or moment that means nothing.

    Raises:
        StoreError: a row says something that nobody can have written.
    """
    try:
        yield
    except StoreError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise damaged_row(name, error) from error


def damaged_row(name: str, error: Exception) -> StoreError:
    """What to say where reading a row of the database called ``name`` raises an error."""
    detail = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return StoreError(
        f"database {name} holds a row that cannot be read ({detail}), and was left as it is; "
        f"restore a copy, or {ELSEWHERE}"
    )


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn what the driver raises into a `StoreError` about the database called ``name``.

    A violated constraint passes through unchanged: it is a caller's mistake, not the database's state.

    Raises:
        StoreError: the driver refused.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        # Extended names add a word or two: SQLITE_READONLY_DIRECTORY, SQLITE_IOERR_WRITE.
        code = "_".join(getattr(error.orig, "sqlite_errorname", "").split("_")[:2])
        detail = (str(error.orig).splitlines() or [type(error.orig).__name__])[0]
        raise StoreError(f"database {name} {SQLITE_FAILURES.get(code, OTHER_FAILURE).format(detail=detail)}") from error
