"""The command line: bad input is one line and exit code 2, good input ends in a database and a report."""

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from autotune.db.records import Status
from autotune.db.store import Store
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

from .command_line import refused, run
from .records import failed, fill, ok

TINY = ("--device", "cpu", "--lengths", "64", "--heads", "2", "--head-dim", "16")
AUTO = Config.of("sdpa", backend="auto", compile="off")
MATH = Config.of("sdpa", backend="math", compile="off")
PROBLEM = Problem.self_attention(64, heads=2, head_dim=16)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No variable of the caller's, and a default database in a folder of its own."""
    for name in [name for name in os.environ if name.startswith("AUTOTUNE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def database(home):
    """A database with one cell tuned by hand."""
    path = home / "t.db"
    fill(
        path,
        [
            (PROBLEM, Dense(), AUTO, ok(2.0)),
            (PROBLEM, Dense(), MATH, ok(3.0)),
            (PROBLEM, Dense(), Config.of("flex", compile="default"), failed(Status.COMPILE_ERROR)),
        ],
    )
    return path


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--lengths", "4x"), ("4x", "4096 or 4k")),
        (("--lengths", "0"), ("'0'", "at least 1")),
        (("--lengths", "-5"), ("'-5'",)),
        (("--lengths", "1.5"), ("'1.5'", "whole number")),
        (("--lengths", "8k:4k"), ("8k:4k", "go up")),
        (("--lengths", "64,,128"), ("''",)),
        (("--kv-home", "host"), ("kv_home is 'host' on cpu", "must be 'device' unless", "leave it out")),
        (("--device", "tpu"), ("'tpu'", "cpu, cuda, cuda:INDEX")),
        (("--device", "cuda:x"), ("'cuda:x'",)),
        (("--device", "cuda:9"), ("'cuda:9'", "--device cpu")),
        (("--heads", "8", "--kv-heads", "3"), ("heads is 8", "kv_heads, 3")),
        (("--heads", "0"), ("heads is 0",)),
        (("--kv-heads", "0"), ("kv_heads is 0",)),
        (("--batch", "0"), ("batch is 0",)),
        (("--head-dim", "-1"), ("head_dim is -1",)),
        (("--sparsity", "dense"), ("sparsity", "'dense'")),
        (("--sparsity", "1.5"), ("sparsity is 1.5", "below 1")),
        (("--sparsity", "nan"), ("sparsity is nan",)),
        (("--segment-lengths", "32,64", "--dilation-rates", "1"), ("segment_lengths", "dilation_rates")),
        (("--segment-lengths", "32,64"), ("segment_lengths", "dilation_rates")),
        (("--dilation-rates", "1,2"), ("segment_lengths", "dilation_rates")),
        (("--segment-lengths", "32", "--dilation-rates", "a"), ("dilation-rates", "'a'")),
        (("--segment-lengths", "32", "--dilation-rates", "0"), ("dilation",)),
        (("--segment-lengths", "64", "--dilation-rates", "4"), ("leaves 96 of 128", "none", "dilation rate 1")),
        (("--memory-limit", "8XB"), ("memory limit", "'8XB'", "8GiB")),
        (("--memory-limit", "much"), ("memory limit", "'much'")),
        (("--budget", "10y"), ("budget", "'10y'", "10m")),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_values_that_tune_cannot_use_are_refused_in_one_line(home, words, parts):
    refused(run("tune", *TINY, "--trials", "1", "--db", home / "t.db", *words), "autotune: ", *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("tune", "--pattern", "spiral"), ("'spiral'", "dense", "dilated", "local_window")),
        (("tune", "--strategy", "magic"), ("'magic'", "sdpa")),
        (("tune", "--dtype", "int8"), ("'int8'", "bfloat16")),
        (("tune", "--effort", "heroic"), ("'heroic'", "thorough")),
        (("tune", "--direction", "backward"), ("'backward'", "training")),
        (("tune", "--trials", "0"), ("--trials", "0")),
        (("tune", "--heads", "many"), ("--heads", "'many'")),
        (("tune", "--colour", "red"), ("--colour",)),
        (("tune", "extra"), ("extra",)),
        (("report", "--format", "pdf"), ("'pdf'", "markdown")),
        (("explain",), ("--length",)),
        (("dance",), ("dance",)),
        (("--colour",), ("--colour",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_words_that_no_command_knows_are_refused_in_one_line(words, parts):
    refused(run(*words), *parts)


@pytest.mark.usefixtures("known_rates")
def test_a_memory_limit_of_nothing_is_not_read_as_no_limit(home, database):
    words = ("--heads", "2", "--head-dim", "16", "--memory-limit", "0")
    refused(run("explain", "--length", "64", *words, "--db", database), "memory limit is 0 B")
    path = home / "new.db"
    run("tune", *TINY, "--pattern", "dense", "--strategy", "sdpa", "--trials", "1", *words[-2:], "--db", path)
    with Store.open(path) as store:
        assert Status.OK not in [record.measurement.status for record in store.records()]


@pytest.mark.parametrize(
    "words", [("report",), ("show",), ("explain", "--length", "64"), ("tune", *TINY)], ids=lambda words: words[0]
)
class TestDatabase:
    """What every command does about a database it cannot use."""

    def test_of_a_newer_schema_is_refused(self, database, words):
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE autotune_alembic_version SET version_num = '9999'")
        connection.close()
        refused(run(*words, "--db", database), "revision 9999", "newer", "upgrade autotune")

    def test_that_is_a_text_file_is_refused_and_left_alone(self, home, words):
        path = home / "notes.txt"
        path.write_text("dear diary\n" * 200)
        refused(run(*words, "--db", path), path, "not a SQLite database", "--db")
        assert path.read_text() == "dear diary\n" * 200

    def test_that_is_a_folder_is_refused(self, home, words):
        refused(run(*words, "--db", home), home, "--db")

    def test_of_an_unknown_kind_is_refused(self, words):
        refused(run(*words, "--db", "filingcabinet://drawer/3"), "filingcabinet")

    def test_of_another_program_is_refused(self, home, words):
        path = home / "other.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.close()
        refused(run(*words, "--db", path), path, "recipes")


@pytest.mark.parametrize("words", [("report",), ("show",), ("explain", "--length", "64")], ids=lambda words: words[0])
def test_looking_at_a_missing_database_is_refused_and_makes_none(home, words):
    path = home / "nowhere.db"
    refused(run(*words, "--db", path), path, "autotune tune")
    assert not path.exists()


def test_without_a_database_named_the_users_data_folder_is_meant(home):
    refused(run("report"), home / "data" / "autotune" / "autotune.db")


@pytest.mark.parametrize("target", ["missing/report.md", "."])
def test_a_report_that_cannot_be_written_is_refused(home, database, target):
    refused(run("report", "--db", database, "--output", home / target), home)


@pytest.mark.parametrize(("name", "opening"), [("markdown", "# "), ("json", "[\n"), ("csv", "implementation,")])
def test_reports_are_printed_or_written_in_each_format(home, database, name, opening):
    printed = run("report", "--db", database, "--format", name)
    assert (printed.exit_code, printed.stderr) == (0, "")
    path = home / f"report.{name}"
    written = run("report", "--db", database, "--format", name, "--output", path)
    assert (written.exit_code, written.stdout) == (0, f"Report: {path}\n")
    for text in (printed.stdout, path.read_text()):
        assert text.lstrip().startswith(opening)
        assert AUTO.text in text
        assert "compile_error" in text


def test_a_json_report_parses_row_by_row(database):
    rows = json.loads(run("report", "--db", database, "--format", "json").stdout)
    rows = rows if isinstance(rows, list) else rows["rows"]
    assert {(row["config"], row["status"]) for row in rows} == {
        (AUTO.text, "ok"),
        (MATH.text, "ok"),
        ("flex(compile=default)", "compile_error"),
    }
    fastest = next(row for row in rows if row["config"] == AUTO.text)
    assert (fastest["time_ms"], fastest["time_min_ms"], fastest["time_max_ms"]) == (2.0, 1.0, 3.0)


def test_explain_names_the_choice_and_the_measurement(database):
    result = run("explain", "--length", "64", "--heads", "2", "--head-dim", "16", "--device", "cpu", "--db", database)
    assert result.exit_code == 0
    assert f"runs      {AUTO.text}" in result.stdout
    assert "source    measured" in result.stdout
    assert "rests on  measurement 1 of" in result.stdout


def test_explain_takes_several_patterns_as_alternatives(database):
    words = ("--length", "64", "--heads", "2", "--head-dim", "16", "--db", database)
    result = run("explain", *words, "--pattern", "local_window", "--pattern", "dense")
    assert "computes  dense" in result.stdout
    alone = run("explain", *words, "--pattern", "local_window")
    assert "computes  local_window" in alone.stdout
    assert "source    default" in alone.stdout


@pytest.mark.parametrize(("name", "label"), [("strided", "local=2 stride=20"), ("global_window_random", "global=1")])
def test_explain_says_what_a_sparsity_comes_to(database, name, label):
    words = ("--length", "8k", "--pattern", name, "--sparsity", "0.9", "--db", database)
    result = run("explain", *words)
    assert result.exit_code == 0, result.output
    assert f"computes  {name} {label}" in result.stdout


@pytest.mark.parametrize("name", ["local_window", "strided", "global_window_random"])
@pytest.mark.parametrize("sparsity", ["1", "-0.5", "most"])
def test_what_is_no_sparsity_is_refused(database, name, sparsity):
    refused(
        run("explain", "--length", "8k", "--pattern", name, "--sparsity", sparsity, "--db", database),
        "sparsity is",
        sparsity,
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AUTOTUNE_DB": "{db}"}, ("--length", "64", "--heads", "2", "--head-dim", "16")),
        ({"AUTOTUNE_EXPLAIN_HEADS": "2", "AUTOTUNE_EXPLAIN_HEAD_DIM": "16"}, ("--db", "{db}", "--length", "64")),
        ({"AUTOTUNE_EXPLAIN_LENGTH": "64"}, ("--db", "{db}", "--heads", "2", "--head-dim", "16")),
    ],
    ids=["db", "shapes", "length"],
)
def test_options_come_from_variables_too(database, variables, words):
    variables = {name: value.format(db=database) for name, value in variables.items()}
    result = run("explain", *(word.format(db=database) for word in words), env=variables)
    assert result.exit_code == 0, result.stderr
    assert "source    measured" in result.stdout


def test_an_option_typed_beats_the_variable(home, database):
    result = run("report", "--db", database, env={"AUTOTUNE_DB": str(home / "nowhere.db")})
    assert result.exit_code == 0


def test_a_bad_variable_is_refused_like_a_bad_option(home):
    env = {"AUTOTUNE_TUNE_LENGTHS": "4x", "AUTOTUNE_DB": str(home / "t.db")}
    refused(run("tune", "--device", "cpu", env=env), "4x")


def test_a_tiny_tune_ends_in_winners_and_a_database_and_is_not_repeated(home):
    path = home / "new folder" / "t.db"
    words = ("--pattern", "dense", "--strategy", "sdpa", "--strategy", "ring", "--trials", "2", "--effort", "quick")
    env = {"AUTOTUNE_DB": str(path), "AUTOTUNE_TUNE_LENGTHS": "64", "AUTOTUNE_TUNE_HEADS": "2"}
    words = ("tune", "--device", "cpu", "--head-dim", "16", *words)
    result = run(*words, env=env)
    assert result.exit_code == 0, result.output
    assert "[1/1] dense, 64 tokens on cpu: 2 configurations to measure" in result.stdout
    assert result.stdout.endswith(f"Database: {path}\n")
    with Store.open(path, read_only=True) as store:
        records, choices = store.records(), store.choices()
    assert [record.measurement.status for record in records] == [Status.OK, Status.OK]
    assert {record.config.strategy for record in records} == {"sdpa", "ring"}
    assert {record.problem for record in records} == {PROBLEM}
    assert all(0 < record.measurement.rel_error < 1e-4 for record in records)
    best = min(records, key=lambda record: record.measurement.time_ms)
    assert choices[0].config == best.config

    again = run(*words, env=env)
    assert again.exit_code == 0
    assert "nothing new to measure" in again.stdout
    with Store.open(path, read_only=True) as store:
        assert len(store.records()) == 2

    explained = run("explain", "--device", "cpu", "--length", "64", "--heads", "2", "--head-dim", "16", env=env)
    assert f"runs      {best.config.text}" in explained.stdout
    assert f"measurement {best.id} of" in explained.stdout
    shown = run("show", env=env)
    assert shown.exit_code == 0
    assert best.config.text in shown.stdout
    rows = list(csv.DictReader(io.StringIO(run("report", "--format", "csv", env=env).stdout)))
    assert {row["config"] for row in rows} == {record.config.text for record in records}
    assert all(row["status"] == "ok" and float(row["time_ms"]) > 0 for row in rows)


def test_show_lists_the_tuned_cells(database):
    with Store.open(database) as store:
        record = store.records()[0]
        store.decide(record.environment, PROBLEM, Dense(), AUTO, record.id, 0.5, 3)
    result = run("show", "--db", database)
    assert result.exit_code == 0
    for part in ("2 heads, head_dim 16", "dense", "64", AUTO.text, "50.00 %", "3", "today", "current software"):
        assert part in result.stdout


def test_show_on_a_machine_with_a_gpu_knows_its_processor_too(database, monkeypatch):
    from autotune import cli_report

    with Store.open(database) as store:
        record = store.records()[0]
        gpu = replace(record.environment, device="cuda", device_name="Some GPU")
        for environment in (record.environment, gpu):
            store.decide(environment, PROBLEM, Dense(), AUTO, record.id, 0.5, 3)
    described = {"cpu": record.environment, "cuda": gpu}
    monkeypatch.setattr(cli_report, "environment_of", lambda device: described[device.type])
    monkeypatch.setattr(cli_report, "resolve_device", lambda name=None: torch.device(name or "cuda"))
    monkeypatch.setattr(cli_report, "distinct_devices", lambda: [torch.device("cuda", 0)])
    shown = run("show", "--db", database).stdout
    assert shown.count("current software") == 2
    assert "another device" not in shown


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_database_and_says_how_to_resume(home):
    path = home / "t.db"
    lengths = ",".join(str(length) for length in range(64, 128))
    words = ["tune", "--device", "cpu", "--lengths", lengths, "--heads", "2", "--head-dim", "16", "--pattern", "dense"]
    words += ["--strategy", "sdpa", "--strategy", "ring", "--trials", "2", "--db", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        before = ""
        while "best:" not in before:  # the first cell is decided
            line = process.stdout.readline()
            assert line, process.stderr.read()
            before += line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"resume with:\n  autotune tune --device cpu --lengths {lengths}" in errors
    assert str(path) in errors
    with Store.open(path) as store:
        records, choices = store.records(), store.choices()
    assert len(records) >= 2
    assert choices[0].problem == PROBLEM
    assert len(records) < 128


@pytest.mark.slow
def test_a_second_ctrl_c_breaks_nothing(home):
    path = home / "t.db"
    words = ["tune", *TINY, "--pattern", "dense", "--strategy", "sdpa", "--effort", "exhaustive", "--db", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "sdpa" in next(line for line in process.stdout if line.startswith("    "))
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    with Store.open(path) as store:
        assert len(store.records()) >= 1
