"""A database of the first schema: nothing is lost, by an upgrade, by a failed one, or by a reader."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
import revision_0001

from autotune.db import schema
from autotune.db.errors import StoreError
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.strategies.config import Config
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

PROBLEM, PATTERN, CONFIG = Problem.self_attention(4096), Dilated.longnet(4096), Config.of("ring", chunk_size=512)
MOMENT = datetime.fromisoformat(revision_0001.MOMENT).replace(tzinfo=UTC)


@pytest.fixture
def old(path, environment):
    revision_0001.create(path)
    revision_0001.fill(path, environment, PROBLEM, PATTERN, CONFIG)
    return path


def dump(path):
    """Every statement that rebuilds the database, but for the revision it is of."""
    with closing(sqlite3.connect(path)) as connection:
        return [line for line in connection.iterdump() if f'INTO "{schema.VERSION_TABLE}"' not in line]


def revision(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT version_num FROM {schema.VERSION_TABLE}").fetchall()


def test_an_upgrade_adds_a_table_and_two_columns_and_changes_nothing_else(old):
    assert revision(old) == [("0001",)]
    before = dump(old)
    Store.open(old).close()
    after = dump(old)
    assert revision(old) == [(schema.REVISIONS[-1],)]
    wider = {"measurements": "NULL", "problems": "'device'"}
    old_lines = {t: [line for line in before if f'"{t}"' in line or f"TABLE {t} " in line] for t in wider}
    changed = [line for lines in old_lines.values() for line in lines]
    assert [line for line in after if line in before] == [line for line in before if line not in changed]
    tables = {line for line in after for name in (*wider, "rates") if line.startswith(f"CREATE TABLE {name} ")}
    assert len(tables) == 3
    rows = [
        line.removesuffix(");") + f",{value});"
        for name, value in wider.items()
        for line in old_lines[name]
        if line.startswith("INSERT")
    ]
    assert len(rows) == 3
    assert {line for line in after if line not in before} == {*tables, *rows}


def test_what_an_old_database_holds_is_read_after_its_upgrade(old, environment):
    Store.open(old).close()
    with Store.open(old, read_only=True) as store:
        (choice,) = store.choices()
        records = store.records(environment_fingerprint=environment.fingerprint, problem=PROBLEM, pattern=PATTERN)
        assert store.rates() == []
    assert [record.measurement.times_ms for record in records] == [(2.0, 1.0, 3.0), (0.5,)]
    for record in records:
        assert (record.environment, record.config, record.created_at) == (environment, CONFIG, MOMENT)
        assert (record.measurement.status, record.measurement.peak_memory_bytes) == (Status.OK, 1 << 40)
        assert (record.run.command, record.run.started_at) == ("autotune tune", MOMENT)
    assert [record.measurement.race for record in records] == [None, None]
    assert (choice.measurement_id, choice.margin, choice.candidates) == (records[1].id, 0.25, 2)


def test_an_upgraded_database_goes_on_where_it_was(old, add, add_rate, environment):
    with Store.open(old) as store:
        number = add(store, problem=PROBLEM, pattern=PATTERN, config=CONFIG)
        add_rate(store)
        (rate,) = store.rates()
        assert [record.id for record in store.records()] == [1, 2, number]
    assert rate.environment == environment
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM environments").fetchone() == (1,)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("writable", [False, True])
def test_an_old_database_is_not_upgraded_by_a_reader(old, writable):
    before = old.read_bytes()
    old.chmod(0o644 if writable else 0o444)
    with pytest.raises(StoreError) as caught:
        Store.open(old, read_only=True)
    assert str(caught.value) == (
        f"database {old} has schema revision 0001, older than this autotune reads ({schema.REVISIONS[-1]}); "
        "run `autotune tune` on it once to bring it up to date, or name another database with --db"
    )
    assert old.read_bytes() == before
    assert os.listdir(old.parent) == [old.name]


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(old):
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE rates (somebody TEXT)")
    before = dump(old)
    with pytest.raises(StoreError, match="table rates already exists") as caught:
        Store.open(old)
    assert "\n" not in str(caught.value)
    assert dump(old) == before
    assert revision(old) == [("0001",)]


def test_an_old_database_that_is_locked_is_not_upgraded(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked by another process"):
            Store.open(old, lock_timeout_s=0.05)
    assert revision(old) == [("0001",)]


@pytest.mark.parametrize("attempt", range(3))
def test_processes_upgrade_one_old_file_together(old, add_rate, in_processes, attempt):
    def measure(number):
        with Store.open(old) as store:
            run_id = store.begin_run(f"tuner {number}")
            for _ in range(5):
                add_rate(store, run_id=run_id)

    assert in_processes(measure, count=4) == [0, 0, 0, 0]
    with Store.open(old, read_only=True) as store:
        assert len(store.rates()) == 20
        assert len(store.records()) == 2
    assert revision(old) == [(schema.REVISIONS[-1],)]
