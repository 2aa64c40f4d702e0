"""Export, import and merge on the command line."""

import json
import os
import sqlite3

import pytest

from autotune.cli import _command_line
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

from .command_line import refused, run
from .records import CPU, failed, fill, ok

PROBLEM = Problem.self_attention(64, heads=2, head_dim=16)
AUTO, MATH = (Config.of("sdpa", backend=backend) for backend in ("auto", "math"))


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.delenv("AUTOTUNE_DB", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "t.db"
    fill(path, [(PROBLEM, Dense(), AUTO, ok(2.0)), (PROBLEM, Dense(), MATH, failed(Status.OOM))])
    return path


@pytest.fixture
def exported(tmp_path, database):
    path = tmp_path / "results.json"
    result = run("export", "--db", database, "--output", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: 2 measurements, 0 decisions, 0 rates\n")
    return path


def records(path):
    with Store.open(path, read_only=True) as store:
        return store.records()


def test_export_and_import_carry_everything_and_twice_is_once(tmp_path, database, exported):
    copy = tmp_path / "copy.db"
    first = run("import", exported, "--db", copy)
    assert first.stdout == f"Added to {copy}: 2 measurements, 0 decisions, 0 rates; 0 known already\n"
    second = run("import", exported, "--db", copy)
    assert second.stdout == f"Added to {copy}: 0 measurements, 0 decisions, 0 rates; 2 known already\n"
    assert records(copy) == records(database)
    assert run("export", "--db", copy).stdout == exported.read_text()


def test_merge_takes_another_database_and_leaves_it_as_it_is(tmp_path, database):
    mine = tmp_path / "mine.db"
    fill(mine, [(PROBLEM, Dense(), AUTO, ok(1.0))])
    before = database.read_bytes()
    result = run("merge", database, "--db", mine)
    assert result.stdout == f"Added to {mine}: 2 measurements, 0 decisions, 0 rates; 0 known already\n"
    assert len(records(mine)) == 3
    assert database.read_bytes() == before


@pytest.mark.parametrize("device", ["cpu", environment_of(CPU).device_name])
def test_export_of_one_device(database, device):
    assert len(json.loads(run("export", "--device", device, "--db", database).stdout)["measurements"]) == 2


def test_a_device_of_which_nothing_is_known_is_refused_and_no_file_made(tmp_path, database):
    output = tmp_path / "none.json"
    words = ("export", "--device", "NVIDIA H100", "--output", output, "--db", database)
    refused(run(*words), "device is 'NVIDIA H100'", environment_of(CPU).device_name)
    assert not output.exists()


def test_an_empty_database_has_nothing_to_export(tmp_path):
    Store.open(tmp_path / "t.db").close()
    refused(run("export", "--db", tmp_path / "t.db"), "holds no measurement", "autotune tune")


@pytest.mark.parametrize("target", ["missing/results.json", "."])
def test_an_export_that_cannot_be_written_is_refused(tmp_path, database, target):
    refused(run("export", "--db", database, "--output", tmp_path / target), tmp_path, "--output")


def test_an_export_that_fails_leaves_the_earlier_one(database, exported, monkeypatch):
    before = exported.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(run("export", "--db", database, "--output", exported), "cannot write", "No space left on device")
    assert exported.read_bytes() == before
    assert sorted(entry.name for entry in exported.parent.iterdir()) == ["results.json", "t.db"]


def test_a_torn_file_changes_nothing(tmp_path, database, exported):
    text = exported.read_text()
    for kept in (0, 10, len(text) // 2, len(text) - 3):
        exported.write_text(text[:kept])
        refused(run("import", exported, "--db", database), exported, "torn", "export it again")
    refused(run("import", tmp_path / "nowhere.json", "--db", database), "nowhere.json", "No such file")
    refused(run("import", database, "--db", database), "t.db", "results file")
    assert len(records(database)) == 2


def test_a_newer_format_is_refused(database, exported):
    exported.write_text(exported.read_text().replace('"version": 1', '"version": 2'))
    refused(run("import", exported, "--db", database), "format version 2", "newer", "upgrade autotune")


def test_a_database_that_is_missing_or_foreign_is_not_merged(tmp_path, database):
    refused(run("merge", tmp_path / "nowhere.db", "--db", database), "nowhere.db", "does not exist")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    refused(run("merge", tmp_path / "other.db", "--db", database), "recipes")
    assert len(records(database)) == 2


def test_a_password_typed_into_a_url_does_not_get_into_the_database(monkeypatch):
    monkeypatch.setattr("sys.argv", ["autotune", "tune", "--db", "postgresql+psycopg://me:s3cret@p@host/t"])
    assert _command_line() == "autotune tune --db postgresql+psycopg://me:***@host/t"
