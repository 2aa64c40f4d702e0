"""Each way in which a database can fail: one line that says what to do, and nothing damaged."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.records import Measurement, Results, Status
from autotune.db.store import Store


def refusal(url_or_path, **options):
    with pytest.raises(StoreError) as caught:
        Store.open(url_or_path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "content", [b"hello\n", b"implementation,time_ms\nring,1.0\n" * 300, bytes(range(1, 256)) * 64]
)
def test_a_file_of_another_kind(path, content, read_only):
    path.write_bytes(content)
    message = refusal(path, read_only=read_only)
    assert message == (
        f"database {path} is not a SQLite database, and was left as it is; name another database with --db"
    )
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.9999])
def test_a_torn_file(path, add, kept):
    with Store.open(path) as store:
        for _ in range(30):
            add(store, measurement=Measurement(status=Status.COMPILE_ERROR, reason="why " * 500))
    whole = path.read_bytes()
    torn = whole[: int(len(whole) * kept)]
    path.write_bytes(torn)
    with pytest.raises(StoreError, match=f"database {path} is damaged, and was left as it is; restore a copy"):
        read_all(path)
    assert path.read_bytes() == torn


def test_a_damaged_page(path, add):
    with Store.open(path) as store:
        for number in range(30):
            add(store, measurement=Measurement(status=Status.COMPILE_ERROR, reason=f"{number} " * 500))
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'measurements'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"database {path} is damaged, and was left as it is; restore a copy"):
        read_all(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("UPDATE measurements SET times_ms = '[1.0, 2'", "JSONDecodeError: Expecting ',' delimiter"),
        ("UPDATE measurements SET times_ms = 'null'", "TypeError: 'NoneType' object is not iterable"),
        ("UPDATE measurements SET status = 'okay'", "ValueError: 'okay' is not a valid Status"),
        ("UPDATE measurements SET created_at = 'yesterday'", "ValueError: "),
        ("UPDATE configs SET params = '{'", "JSONDecodeError: "),
        ("UPDATE problems SET dtype = 'float31'", "ProblemError: "),
    ],
)
def test_a_damaged_row(path, add, statement, detail):
    with Store.open(path) as store:
        add(store)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with Store.open(path) as store:
        for look in (store.records, store.results, lambda: store.merge(Results())):
            with pytest.raises(StoreError) as caught:
                look()
            message = str(caught.value)
            assert message.startswith(f"database {path} holds a row that cannot be read ({detail}")
            assert message.endswith("), and was left as it is; restore a copy, or name another database with --db")
            assert "\n" not in message


@pytest.mark.parametrize("read_only", [False, True])
def test_a_single_byte_which_sqlite_takes_for_an_empty_file(path, read_only):
    path.write_bytes(b"x")
    assert "is damaged, and was left as it is" in refusal(path, read_only=read_only)
    assert path.read_bytes() == b"x"


def read_all(path):
    with Store.open(path, read_only=True) as store:
        store.records()


def test_a_missing_file_is_not_created_by_reading(path):
    with pytest.raises(StoreNotFoundError, match=f"database {path} does not exist; run `autotune tune` first, or"):
        Store.open(path, read_only=True)
    assert not path.exists()


def test_a_folder_in_place_of_a_file(tmp_path):
    for read_only in (False, True):
        message = refusal(tmp_path, read_only=read_only)
        assert message.startswith(f"database {tmp_path} cannot be opened, but must be a file in a folder")


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "t.db"
    message = refusal(below)
    assert message == (
        f"database {below} cannot be reached ({tmp_path / 'file'}: File exists), "
        "but must be in a folder that can be written; name another database with --db"
    )


def test_a_read_only_folder(shared_folder, unprivileged):
    message = refusal(shared_folder / "below" / "t.db")
    assert f"cannot be reached ({shared_folder / 'below'}: Permission denied)" in message
    assert refusal(shared_folder / "t.db").startswith(f"database {shared_folder / 't.db'} cannot be opened")


@pytest.fixture
def finished(shared_folder, add):
    """A database that an administrator has filled."""
    path = shared_folder / "100% #1?.db"
    with Store.open(path) as store:
        add(store)
    path.chmod(0o444)
    return path


def test_a_read_only_file_can_be_read_but_not_written(finished, unprivileged):
    with Store.open(finished, read_only=True) as store:
        assert len(store.records()) == 1
    assert [entry.name for entry in finished.parent.iterdir()] == [finished.name]
    assert re.search(r"is read-only; make file and folder writable|cannot be opened", refusal(finished))


def test_a_read_only_file_in_a_writable_folder(shared_folder, finished, request):
    shared_folder.chmod(0o777)
    request.getfixturevalue("unprivileged")
    with Store.open(finished, read_only=True) as store:
        assert len(store.records()) == 1
    assert "is read-only; make file and folder writable, or name another database with --db" in refusal(finished)


def test_writing_through_a_reader(path, add):
    Store.open(path).close()
    with Store.open(path, read_only=True) as store, pytest.raises(StoreError, match="is read-only; make file"):
        add(store)


def test_a_locked_file(path):
    Store.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        message = refusal(path, lock_timeout_s=0.05)
    assert message == (
        f"database {path} is locked by another process, which did not let go in time; "
        "wait for it to end, or name another database with --db"
    )


def test_a_new_file_that_stays_locked(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "is locked by another process" in refusal(path, lock_timeout_s=0.05)


def test_a_full_disk(store, add):
    add(store)

    @event.listens_for(store._engine, "checkout")
    def stop_growing(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")  # the smallest that SQLite grants is what it has

    with pytest.raises(StoreError, match="cannot grow, because its disk is full; free some space and run the same"):
        add(store, measurement=Measurement(status=Status.COMPILE_ERROR, reason="why " * 100_000))
    assert len(store.records()) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("oracle9000://host/t", "is of a kind that SQLAlchemy does not know, 'oracle9000'; use sqlite, postgresql"),
        ("mysql+cymysql://u:secret@host/t", "needs the Python package 'cymysql', which is not installed; install it"),
    ],
)
def test_urls_without_a_driver(url, expected):
    message = refusal(url)
    assert expected in message
    assert "secret" not in message


def test_a_failure_without_a_line_of_its_own_repeats_the_drivers_words(tmp_path: Path):
    # A server's refusal takes the same way; here a query that SQLite's driver does not accept.
    message = refusal("sqlite:///file:t.db?mode=nonsense&uri=true")
    assert re.search(r"does not answer as it should \(.*nonsense.*\); check server, name and rights", message)
