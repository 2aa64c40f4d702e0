"""What tuning does about a database that cannot be written: one line, exit code 2, and nothing damaged."""

import os
import sqlite3
import subprocess
from contextlib import closing

import planted
import pytest
from stand_in import StandIn

from autotune.db.records import Measurement, Status
from autotune.db.store import Store

from .command_line import run

TINY = ("--device", "cpu", "--lengths", "64", "--heads", "2", "--head-dim", "16", "--pattern", "dense")


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """Answers at once, at length."""
    long = Measurement(status=Status.COMPILE_ERROR, reason="why " * 500_000)
    monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
    monkeypatch.setattr("autotune.tuning.Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr(StandIn, "answers", {"many": long})
    return StandIn


def tune(database):
    return run("tune", *TINY, "--db", database)


def one_line(result, *parts):
    """Exit code 2 and one line on stderr that holds all parts; progress may have been printed."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    for part in ("autotune: database ", *parts):
        assert str(part) in result.stderr


def stored(database):
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    with Store.open(database) as store:
        return [record.config for record in store.records()]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 8 MiB; gives its folder and what enlarges it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )

    if os.geteuid() or mount("size=8m").returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder, lambda: mount("remount,size=64m")
    subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_tuning_stops_and_goes_on_where_there_is_room_again(small_disk, empty_database, worker):
    folder, enlarge = small_disk
    database = folder / "t.db"
    database.write_bytes(empty_database.read_bytes())
    one_line(tune(database), database, "its disk is full; free some space and run the same command again")
    before = stored(database)
    assert 0 < len(before) < planted.VARIANTS
    enlarge()
    worker.asked.clear()
    assert tune(database).exit_code == 0
    assert sorted(stored(database), key=str) == sorted(planted.Many().space(None, None), key=str)
    assert {candidate.config for candidate in worker.asked}.isdisjoint(before)


def test_a_new_database_on_a_disk_without_room(small_disk):
    folder, _ = small_disk
    (folder / "ballast").write_bytes(b"x" * 8170 * 1024)
    one_line(tune(folder / "t.db"), "t.db")


def test_a_read_only_file_in_a_read_only_folder(shared_folder, empty_database, request):
    database = shared_folder / "t.db"
    database.write_bytes(empty_database.read_bytes())
    database.chmod(0o444)
    before = database.read_bytes()
    request.getfixturevalue("unprivileged")
    one_line(tune(database), database, "; ")
    assert database.read_bytes() == before
    assert [entry.name for entry in shared_folder.iterdir()] == ["t.db"]


def test_a_locked_file(empty_database, monkeypatch):
    monkeypatch.setitem(Store.open.__func__.__kwdefaults__, "lock_timeout_s", 0.1)
    before = empty_database.read_bytes()
    with closing(sqlite3.connect(empty_database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        one_line(tune(empty_database), empty_database, "is locked by another process", "wait for it to end")
    assert empty_database.read_bytes() == before


@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_a_torn_file(empty_database, kept):
    whole = empty_database.read_bytes()
    torn = whole[: int(len(whole) * kept)]
    empty_database.write_bytes(torn)
    one_line(tune(empty_database), empty_database, "is damaged, and was left as it is; restore a copy")
    assert empty_database.read_bytes() == torn
