"""What was committed stays, and processes do not get in each other's way."""

import os
import signal
import sqlite3
from contextlib import closing

import pytest

from autotune.db.store import Store
from autotune.strategies.problem import Problem


def integrity(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def test_a_measurement_survives_the_death_of_its_process(path, add, in_processes):
    def measure_and_die(_):
        add(Store.open(path))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(measure_and_die) == [-signal.SIGKILL]
    with Store.open(path) as store:
        assert len(store.records()) == 1
        add(store)
    assert integrity(path) == "ok"


def test_a_rate_survives_the_death_of_its_process(path, add_rate, in_processes):
    def measure_and_die(_):
        add_rate(Store.open(path))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(measure_and_die) == [-signal.SIGKILL]
    with Store.open(path) as store:
        assert len(store.rates()) == 1
    assert integrity(path) == "ok"


@pytest.mark.parametrize("attempt", range(3))
def test_processes_create_and_fill_one_new_file_together(path, add, in_processes, attempt):
    def measure(number):
        with Store.open(path) as store:
            run_id = store.begin_run(f"tuner {number}")
            for step in range(10):
                add(store, run_id=run_id, problem=Problem.self_attention(1 + step))

    assert in_processes(measure, count=4) == [0, 0, 0, 0]
    with Store.open(path, read_only=True) as store:
        records = store.records()
    assert len(records) == 40
    assert len({record.problem for record in records}) == 10
    assert len({record.run for record in records}) == 4
    assert integrity(path) == "ok"


def test_a_reader_and_a_writer_do_not_wait_for_each_other(path, add):
    with (
        Store.open(path) as writer,
        Store.open(path, read_only=True, lock_timeout_s=0.0) as reader,
        closing(sqlite3.connect(path, isolation_level=None)) as busy,
    ):
        add(writer)
        busy.execute("BEGIN IMMEDIATE")
        assert len(reader.records()) == 1


def test_every_commit_is_synchronised_and_foreign_keys_are_checked(store):
    with store._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("read_only", [False, True])
def test_opening_writes_nothing(path, add, read_only):
    with Store.open(path) as store:
        add(store)
    before, modified = path.read_bytes(), path.stat().st_mtime_ns
    with Store.open(path, read_only=read_only) as store:
        assert len(store.records()) == 1
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == modified
    assert os.listdir(path.parent) == [path.name]
