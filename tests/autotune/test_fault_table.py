"""The line that the user of ``tune`` sees for each fault, and the exit code.

``pytest -s tests/autotune/test_fault_table.py`` prints them as a table.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache

import planted
import pytest
from click.testing import Result
from stand_in import RATES, StandIn

from autotune.effort import EFFORTS

from .command_line import run

DEADLINE_S = 5.0
DAMAGED = "is damaged, and was left as it is; restore a copy, save the rest with `sqlite3 .recover`, or name another"
UNREADABLE = "holds a row that cannot be read ("


def tune(database) -> Result:
    words = ("--device", "cpu", "--lengths", "64", "--heads", "2", "--head-dim", "16", "--pattern", "dense")
    return run("tune", *words, "--effort", "quick", "--trials", "99", "--db", database)


def show(fault: str, result: Result, line: str) -> None:
    print(f"| {fault} | {result.exit_code} | {line} |")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Callable[..., Result]:
    """Tune a cell with a right strategy and others that go wrong, all in one run: real worker, real database."""

    @cache
    def tuned(*plants: type[planted.Planted]) -> Result:
        quick = replace(EFFORTS["quick"], timing_budget_s=0.01, compile_s=DEADLINE_S, run_s=DEADLINE_S)
        with pytest.MonkeyPatch.context() as monkeypatch:
            strategies = {plant.name: plant() for plant in (planted.Correct, *plants)}
            monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
            monkeypatch.setattr("autotune.tuning.EFFORTS", {"quick": quick})
            monkeypatch.setattr("autotune.worker.Worker.rates", lambda worker, task: RATES)
            monkeypatch.setattr("autotune.history.free_memory_bytes", lambda device: 600 << 20)
            return tune(tmp_path_factory.mktemp("tuned") / "t.db")

    return tuned


QUICK = (
    planted.Zeros,
    planted.FirstRowsOnly,
    planted.NotANumber,
    planted.RaisesInBuild,
    planted.ExhaustsMemory,
    planted.Segfaults,
)
SLOW = (planted.IllegalInstruction, planted.Killed, planted.HangsInBuild, planted.HangsInSecondCall)
CANDIDATES = {
    planted.Segfaults: ("SIGSEGV", "crashed: killed by SIGSEGV during compile"),
    planted.IllegalInstruction: ("SIGILL", "crashed: killed by SIGILL during compile"),
    planted.Killed: ("SIGKILL from outside", "crashed: killed by SIGKILL during compile"),
    planted.HangsInBuild: ("hang in compile", "timeout: compile took longer than 5 s"),
    planted.HangsInSecondCall: ("hang in run", "timeout: run took longer than 5 s"),
    planted.ExhaustsMemory: ("memory exhaustion", "oom: RuntimeError: [enforce fail at "),
    planted.Zeros: ("all zeros", "wrong_result: output is all zeros"),
    planted.FirstRowsOnly: ("wrong result", "wrong_result: output: relative error 1 is over the gate, 5e-05"),
    planted.NotANumber: ("NaN", "wrong_result: output holds NaN or infinity in 100.00% of its values"),
    planted.RaisesInBuild: ("compile error", "compile_error: RuntimeError: this does not compile"),
}


@pytest.mark.parametrize(
    "plant", [*QUICK, *(pytest.param(plant, marks=pytest.mark.slow) for plant in SLOW)], ids=lambda plant: plant.name
)
def test_a_candidates_fault_is_one_line_and_the_run_goes_on(tuned, plant):
    fault, expected = CANDIDATES[plant]
    result = tuned(*(SLOW if plant in SLOW else QUICK))
    (line,) = (line.strip() for line in result.stdout.splitlines() if line.startswith(f"    {plant.name}()"))
    show(fault, result, line)
    assert result.exit_code == 0, result.output
    assert line.removeprefix(f"{plant.name}()").strip().startswith(expected)
    assert "Traceback" not in result.output
    assert "best: correct(" in result.stdout
    status = expected.partition(":")[0]
    (counted,) = (line for line in result.stdout.splitlines() if line.startswith("Not ok: "))
    assert f" {status}" in counted
    assert result.stderr == ""


def execute(statement):
    """Changes a database as no program of ours would."""

    def damage(database):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)

    return damage


def overwrite(table):
    """Puts rubbish where the table begins."""

    def damage(database):
        with closing(sqlite3.connect(database)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log would mend the file
        content = bytearray(database.read_bytes())
        content[(page - 1) * size : page * size] = b"\xff" * size
        database.write_bytes(content)

    return damage


def cut(database):
    database.write_bytes(database.read_bytes()[:-5000])


DATABASES = {
    "newer database schema": (
        execute("UPDATE autotune_alembic_version SET version_num = '9999'"),
        "has schema revision 9999, newer than this autotune knows (",
    ),
    "newer Optuna schema": (
        execute("UPDATE alembic_version SET version_num = 'v9.9.9'"),
        "holds studies that cannot be used: The runtime optuna version ",
    ),
    "file cut off": (cut, DAMAGED),
    "damaged page": (overwrite("measurements"), DAMAGED),
    "damaged page of a study": (overwrite("trials"), DAMAGED),
    "damaged row: no JSON": (execute("UPDATE measurements SET times_ms = '[1.0, 2'"), f"{UNREADABLE}JSONDecodeError"),
    "damaged row: unknown status": (
        execute("UPDATE measurements SET status = 'okay'"),
        f"{UNREADABLE}ValueError: 'okay' is not a valid Status",
    ),
    "damaged study": (execute("UPDATE trial_user_attributes SET value_json = '{'"), f"{UNREADABLE}JSONDecodeError"),
}


@pytest.mark.parametrize("fault", DATABASES)
def test_a_databases_fault_is_one_line_and_exit_code_2(empty_database, monkeypatch, fault):
    monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
    monkeypatch.setattr("autotune.tuning.Worker", StandIn)
    assert tune(empty_database).exit_code == 0
    damage, expected = DATABASES[fault]
    damage(empty_database)
    before = empty_database.read_bytes()
    result = tune(empty_database)
    show(fault, result, result.stderr.strip().replace(str(empty_database), "t.db"))
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"autotune: database {empty_database} {expected}")
    assert "Traceback" not in result.output
    assert empty_database.read_bytes() == before
