"""The report command: a suite, published figures, each format."""

import json
import os
from dataclasses import replace

import pytest

from autotune.cli_report import run_report
from autotune.db.records import Status
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suites import SUITES

from .command_line import refused, run
from .records import failed, fill, ok

PROBLEM = Problem.self_attention(64, heads=2, head_dim=16)
PUBLISHED = """\
implementation,seq_len,status,time_ms,peak_memory_mib,failure
DilatedAttention,64,ok,8.0,4.0,
DilatedAttention,128,failed,,,OOM
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AUTOTUNE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def database(tmp_path):
    """A database with two rows of the suite, and one that is not part of it."""
    exact, dilated, *_ = (each.config(PROBLEM, Dense()) for each in SUITES["extreme"].implementations)
    entries = [
        (PROBLEM, Dilated.longnet(64), dilated, ok(2.0)),
        (PROBLEM, Dense(), exact, failed(Status.WRONG_RESULT)),
        (PROBLEM, Dense(), Config.of("flex", compile="default"), ok(1.0)),
    ]
    fill(tmp_path / "t.db", entries)
    return tmp_path / "t.db"


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(PUBLISHED)
    return path


def test_a_suite_is_reported_under_its_published_names(database):
    found = json.loads(run("report", "--suite", "extreme", "--format", "json", "--db", database).stdout)
    assert {row["implementation"]: row["flag"] for row in found} == {
        "Exact_SDPA": "planted wrong_result",
        "DilatedAttention": "",
    }
    text = run("report", "--suite", "extreme", "--db", database).stdout
    assert text.startswith("# Extreme sequence lengths\n")
    assert "1 of 11 cells ok; 0 of 1 cells of the exact baseline Exact_SDPA." in text


def test_published_figures_stand_beside_ours(database, published):
    text = run("report", "--suite", "extreme", "--compare", published, "--db", database).stdout
    assert "1 of their 2 cells ran." in text
    assert "| `DilatedAttention` | 64 | ok | 8.000 | 4.0 | ok | 2.000 | 1.0 | 1.0e-07 | 4.00x |" in text


def test_a_page_is_printed_or_written(database, tmp_path):
    printed = run("report", "--format", "html", "--db", database)
    assert (printed.exit_code, printed.stderr) == (0, "")
    path = tmp_path / "report.html"
    run("report", "--format", "html", "--output", path, "--db", database)
    for text in (printed.stdout, path.read_text()):
        assert text.lower().startswith("<!doctype html>")


def test_a_terminal_gets_a_table_with_bars(database, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run_report(db=str(database), format_name=None, output=None, suite="extreme", compare=None)
    text = capsys.readouterr().out
    assert "1 of 11 cells ok" in text
    assert "▁" in text
    assert max(map(len, text.splitlines())) <= 80


WORDS = ("explain", "--device", "cpu", "--heads", "2", "--head-dim", "16", "--length")


def test_without_a_database_explain_says_what_would_run(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.cli_report.default_database", lambda: tmp_path / "nowhere.db")
    result = run(*WORDS, "64")
    assert result.exit_code == 0
    assert "source    default: nothing is tuned for this device and pattern" in result.stdout
    assert str(tmp_path / "nowhere.db") in result.stderr
    assert not (tmp_path / "nowhere.db").exists()


def test_explain_takes_fewer_queries_than_keys(tmp_path):
    decode = replace(PROBLEM, query_len=1)
    fill(tmp_path / "t.db", [(decode, Dense(), Config.of("sdpa", backend="math", compile="off"), ok(1.0))])
    text = run(*WORDS, "64", "--query-len", "1", "--db", tmp_path / "t.db").stdout
    assert f"for       {decode.key}" in text
    assert "source    measured" in text
    refused(run(*WORDS, "64", "--query-len", "none", "--db", tmp_path / "t.db"), "'none'")
    words = ("64", "--query-len", "1", "--pattern", "local_window", "--db", tmp_path / "t.db")
    refused(run(*WORDS, *words), "query_len 1 and kv_len 64")


def test_explain_describes_no_call_that_cannot_be_made(database):
    refused(run(*WORDS, "64", "--kv-home", "host", "--db", database), "kv_home is 'host' on cpu", "leave it out")


def test_explain_names_no_graph_of_another_length(tmp_path):
    static = Config.of("sdpa", backend="auto", compile="default", dynamic=False)
    fill(tmp_path / "t.db", [(PROBLEM, Dense(), static, ok(1.0))])
    assert f"runs      {static.text}" in run(*WORDS, "64", "--db", tmp_path / "t.db").stdout
    other = run(*WORDS, "60", "--db", tmp_path / "t.db").stdout
    assert f"rejected  {static.text} for dense" in other
    assert "`autotune.warmup` compiles it" in other


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--suite", "moderate"), ("'moderate'", "extreme")),
        (("--compare", "nowhere.csv"), ("--compare", "nowhere.csv", "not exist")),
        (("--compare", "."), ("--compare", "directory")),
    ],
)
def test_words_that_name_nothing_are_refused_in_one_line(database, words, parts):
    refused(run("report", *words, "--db", database), *parts)


def test_published_figures_that_make_no_sense_are_refused_in_one_line(database, published):
    published.write_text("name,time\nours,1\n")
    refused(run("report", "--compare", published, "--db", database), published, "no column implementation")
