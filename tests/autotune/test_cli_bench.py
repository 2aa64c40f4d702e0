"""The commands ``bench`` and ``limits``; a stand-in measures, but where a test says that it is real."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import product
from typing import ClassVar

import psutil
import pytest
from small_suite import growing, install
from test_worker import gone, wait_until

from autotune.db.records import Status
from autotune.db.store import Store
from autotune.strategies.amx import has_amx
from autotune.strategies.pattern import Dense
from autotune.strategies.suite_efficiency import EFFICIENCY, LONG, SHORT, WINDOWS
from autotune.strategies.suite_extreme import EXTREME

from .command_line import refused, run

NAMES = [each.name for each in EXTREME.implementations]
SMALL = ("--device", "cpu", "--heads", "2", "--head-dim", "16")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No variable of the caller's, and a default database in a folder of its own."""
    for name in [name for name in os.environ if name.startswith("AUTOTUNE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def worker(monkeypatch):
    return install(monkeypatch)


def records(db):
    with Store.open(db, read_only=True) as store:
        return store.records()


def names(db):
    """How often each implementation was measured or skipped."""
    return Counter(EXTREME.name_of(record.problem, record.pattern, record.config) for record in records(db))


def interrupt(candidate):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("bench", ("--suite", "--lengths", "--time-limit", "--memory-limit", "--force", "--segment-lengths", "--db")),
        (
            "limits",
            ("--suite", "--implementation", "--shortest", "--longest", "--time-limit", "--memory-limit", "--db"),
        ),
    ],
)
def test_help_names_every_option(command, options):
    result = run(command, "--help")
    assert result.exit_code == 0
    for option in options:
        assert option in result.stdout


@pytest.mark.parametrize("command", ["bench", "limits"])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--time-limit", "10y"), ("time limit is '10y'", "10m")),
        (("--time-limit", "soon"), ("time limit is 'soon'",)),
        (("--memory-limit", "8XB"), ("memory limit is '8XB'", "8GiB")),
        (("--suite", "moderate"), ("'moderate'", "extreme")),
        (("--implementation", "Magic"), ("implementation is 'Magic'", *NAMES)),
        (("--device", "tpu"), ("'tpu'", "cpu")),
        (("--heads", "0"), ("heads is 0",)),
        (("--heads", "8", "--kv-heads", "3"), ("heads is 8", "kv_heads, 3")),
        (("--segment-lengths", "32,64"), ("segment_lengths", "dilation_rates")),
        (("--colour", "red"), ("--colour",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_values_that_neither_command_can_use_are_refused_in_one_line(home, worker, command, words, parts):
    refused(run(command, *SMALL, "--db", home / "t.db", *words), *parts)
    assert not (home / "t.db").exists()


@pytest.mark.parametrize(
    ("command", "words", "parts"),
    [
        ("bench", ("--lengths", "4x"), ("4x", "4096 or 4k")),
        ("bench", ("--lengths", "0"), ("'0'", "at least 1")),
        ("bench", ("--lengths", "8k:4k"), ("8k:4k", "go up")),
        ("bench", ("--suite", "efficiency", "--dilation-rates", "1"), ("dilation-rates is '1'", "leave it out")),
        ("bench", ("--suite", "efficiency", "--implementation", "x"), ("implementation is 'x'", "dilated, ring")),
        ("limits", ("--shortest", "8k", "--longest", "4k"), ("shortest length is 8,192", "4,096")),
        ("limits", ("--shortest", "0"), ("'0'", "at least 1")),
        ("limits", ("--longest", "4k:8k"), ("'4k:8k'", "single")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value[0].startswith("--") else "",
)
def test_values_that_one_command_cannot_use_are_refused_in_one_line(home, worker, command, words, parts):
    refused(run(command, *SMALL, "--db", home / "t.db", *words), *parts)
    assert not (home / "t.db").exists()


def test_bench_prints_each_measurement_by_name_then_the_table_and_where_the_database_is(home, worker):
    result = run("bench", *SMALL, "--lengths", "64,100", "--db", home / "t.db")
    assert result.exit_code == 0, result.output
    progress, _, rest = result.stdout.partition("2 heads")
    assert "[1/8] dense, 64 tokens on cpu: 1 configurations to measure" in progress
    for name in NAMES:
        assert progress.count(f"    {name} ") == 2
        assert name in rest
    assert rest.endswith(f"Database: {home / 't.db'}\n")
    assert names(home / "t.db") == Counter(dict.fromkeys(NAMES, 2))


def test_bench_measures_the_published_lengths_by_default(home, worker):
    words = ("--implementation", "DilatedAttention", "--memory-limit", "1")
    result = run("bench", *SMALL, *words, "--db", home / "t.db")
    assert result.exit_code == 0, result.output
    assert [record.problem.kv_len for record in records(home / "t.db")] == [4096 * 2**i for i in range(7)]
    assert "Not ok: 7 skipped; the reasons are above and in the report, and --force runs them again" in result.stdout
    assert worker.asked == []


def test_bench_says_what_it_leaves_out_and_force_runs_it(home, worker):
    worker.answers["sdpa"] = growing(10_000.0)
    words = ("bench", *SMALL, "--lengths", "64,128", "--time-limit", "30s", "--db", home / "t.db")
    result = run(*words)
    assert "skipped: predicted 40 s a call, from length 64; the limit is 30 s" in result.stdout
    assert "Not ok: 4 unsupported, 1 skipped;" in " ".join(result.stdout.split())
    forced = run(*words, "--force")
    assert "skipped" not in forced.stdout
    assert names(home / "t.db")["Exact_SDPA"] == 3
    assert len(worker.asked) == 20


def test_bench_run_again_has_nothing_to_measure(home, worker):
    for _ in range(2):
        result = run("bench", *SMALL, "--lengths", "64", "--db", home / "t.db")
    assert result.stdout.count("nothing new to measure") == 4
    assert len(worker.asked) == 10  # the windows are too wide for their names


def test_the_dilated_rows_take_the_segments_asked_for(home, worker):
    words = ("--segment-lengths", "32,64", "--dilation-rates", "1,2", "--lengths", "64")
    assert run("bench", *SMALL, *words, "--db", home / "t.db").exit_code == 0
    dilated = {record.pattern for record in records(home / "t.db") if record.pattern.kind == "dilated"}
    assert [(pattern.segment_lengths, pattern.dilation_rates) for pattern in dilated] == [((32, 64), (1, 2))]


@pytest.mark.parametrize("command", ["bench", "limits"])
def test_ctrl_c_keeps_what_was_measured_and_says_how_to_resume(home, worker, command, monkeypatch):
    worker.answers["ring"] = interrupt
    words = [
        command,
        *SMALL,
        *({"bench": ("--lengths", "64"), "limits": ("--shortest", "64", "--longest", "64")}[command]),
    ]
    words += ["--db", str(home / "t.db")]
    monkeypatch.setattr(sys, "argv", ["autotune", *words])
    result = run(*words)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2:] == [
        f"Stopped. Every finished measurement is in {home / 't.db'}; resume with:",
        f"  autotune {' '.join(words)}",
    ]
    assert names(home / "t.db") == Counter(NAMES[:3])
    assert run(*words[:-2], "--db", home / "t.db").exit_code == 130  # and on to where it was
    worker.answers.clear()
    assert run(*words).exit_code == 0
    assert names(home / "t.db") == Counter(NAMES)


def test_limits_prints_how_far_each_comes_and_why_not_further(home, worker):
    worker.answers |= {"sdpa": growing(4.0)}
    words = ("--shortest", "64", "--longest", "1024", "--time-limit", "1s", "--db", home / "t.db")
    result = run("limits", *SMALL, *words)
    assert result.exit_code == 0, result.output
    table = result.stdout.partition("Longest sequence within")[2]
    lines = {line.split()[0]: line for line in table.splitlines() if line.split() and line.split()[0] in NAMES}
    assert list(lines) == NAMES
    assert lines["Exact_SDPA"].split()[1:4] == ["960", "900", "ms"]
    assert "1,024: skipped: predicted 1.02 s a call, from length 512; the limit is 1 s" in lines["Exact_SDPA"]
    assert "1,024 tokens are the longest that were tried" in lines["DilatedAttention"]
    assert lines["BlockSparse_LocalWindow_0.9"].split()[1:4] == ["none", "-", "-"]
    assert "64: unsupported: the diagonal blocks alone are 100%" in lines["BlockSparse_LocalWindow_0.9"]


def test_limits_prints_what_it_found_before_an_interruption(home, worker):
    worker.answers["ring"] = interrupt
    result = run("limits", *SMALL, "--shortest", "64", "--longest", "64", "--db", home / "t.db")
    assert result.exit_code == 130
    table = result.stdout.partition("Longest sequence within")[2]
    assert [name for name in NAMES if name in table] == NAMES[:3]


@pytest.mark.parametrize(
    ("command", "words"), [("bench", ("--lengths", "4k,8k")), ("limits", ("--shortest", "4k", "--longest", "8k"))]
)
def test_named_implementations_are_measured_and_the_others_left_alone(home, worker, command, words):
    chosen = ("BlockSparse_LocalWindow_0.95", "DilatedAttention")
    words = (*words, *(word for name in chosen for word in ("--implementation", name)), "--db", home / "t.db")
    assert run(command, *SMALL, *words).exit_code == 0
    assert names(home / "t.db") == dict.fromkeys(chosen, 2)


class TestEfficiency:
    """The suite whose rows are held against exact attention."""

    ROWS: ClassVar = {  # at each length
        **{"exact": 1, "dilated": 2, "ring": 2, "block_sparse": 2, "flex": 2},
        **{"dilated_lanes": 2, "block_sparse_lanes": 2},
    }
    WORDS = ("bench", "--suite", "efficiency", *SMALL, "--lengths", "64", "--time-limit", "5s")

    @pytest.fixture(autouse=True)
    def race(self, worker, monkeypatch):
        """A race of two rounds in which nothing changes."""
        worker.answers |= {"sdpa": growing(1.0)}
        monkeypatch.setattr(
            worker, "race", lambda self, contest: [self.measure(each).times_ms * 2 for each in contest.candidates]
        )

    def names(self, db, **wanted):
        found = [record for record in records(db) if record.problem.kv_len == 64 and record.measurement.race is None]
        return Counter(
            EFFICIENCY.name_of(record.problem, record.pattern, record.config)
            for record in found
            if all(getattr(record.problem, name) == value for name, value in wanted.items())
        )

    def test_is_measured_in_both_directions_and_prints_the_shares(self, home):
        result = run(*self.WORDS, "--db", home / "t.db")
        assert result.exit_code == 0, result.output
        assert "reference: 4,096 tokens, forward" in result.stdout
        for direction in ("forward", "training"):
            assert self.names(home / "t.db", direction=direction) == self.ROWS
        assert result.stdout.count("of dense: share of the rate of exact attention at 4,096 tokens") == 2
        assert "dilated w=[1024, 2048, 4096] r=[1, 2, 4]/ring" in result.stdout

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (("--direction", "training"), {"direction": "training"}),
            (("--dtype", "float16", "--direction", "forward"), {"dtype": "float16", "direction": "forward"}),
        ],
    )
    def test_takes_direction_and_dtype(self, home, words, found):
        assert run(*self.WORDS, *words, "--db", home / "t.db").exit_code == 0
        assert self.names(home / "t.db", **found) == self.names(home / "t.db") == self.ROWS

    def test_shows_the_kernel_for_bfloat16_where_it_runs(self, home):
        """Elsewhere its rows say why it does not."""
        result = run(*self.WORDS, "--dtype", "bfloat16", "--direction", "forward", "--db", home / "t.db")
        measured = self.ROWS | {"dilated_amx": 2, "block_sparse_amx": 2}
        assert self.names(home / "t.db") == measured
        assert ("kernel is 'amx', but must be one of flash" in result.stdout) != has_amx()

    def test_named_rows_are_held_against_the_reference_too(self, home):
        result = run(*self.WORDS, "--implementation", "ring", "--direction", "forward", "--db", home / "t.db")
        assert self.names(home / "t.db") == {"ring": 2}
        assert "exact attention at 4,096 tokens" in result.stdout

    def test_run_again_has_nothing_to_measure_and_says_the_same(self, home):
        first, again = (run(*self.WORDS, "--db", home / "t.db").stdout for _ in range(2))
        assert again.count("nothing new to measure") == 10
        assert first.partition("cells ok")[2] == again.partition("cells ok")[2]

    def test_its_lengths_and_those_of_the_shorter_segments(self, home):
        result = run("bench", "--suite", "efficiency", *SMALL, "--memory-limit", "1", "--db", home / "t.db")
        assert result.exit_code == 0, result.output
        found = {(record.problem.kv_len, record.pattern) for record in records(home / "t.db")}
        assert found == {
            *product((8192, 32768, 131072), (Dense(), LONG, *WINDOWS)),
            *product((65536,), (Dense(), SHORT)),
            *product((4096 >> halving for halving in range(13)), (Dense(),)),
        }

    def test_ctrl_c_while_the_reference_is_looked_for_keeps_what_was_measured(self, home, worker):
        worker.answers["sdpa"] = interrupt
        result = run(*self.WORDS, "--db", home / "t.db")
        assert result.exit_code == 130
        assert "resume with" in result.stderr
        worker.answers["sdpa"] = growing(1.0)
        assert run(*self.WORDS, "--db", home / "t.db").exit_code == 0

    def test_has_no_limits_to_be_found(self, home):
        refused(run("limits", "--suite", "efficiency", "--db", home / "t.db"), "'efficiency' is not 'extreme'")


@pytest.mark.slow
def test_a_tiny_real_run_of_efficiency_is_raced_checked_and_reported(home):
    rows = ("--implementation", "dilated", "--implementation", "block_sparse", "--direction", "training")
    words = ("bench", "--suite", "efficiency", "--device", "cpu", "--heads", "1", "--head-dim", "8", "--lengths", "200")
    result = run(*words, *rows, "--time-limit", "300ms", "--db", home / "t.db")
    assert result.exit_code == 0, result.output
    races = {}
    for record in records(home / "t.db"):
        assert record.measurement.status is Status.OK
        assert record.measurement.rel_error < 5e-5
        if record.measurement.race:
            races.setdefault(record.measurement.race, []).append(record)
    (race,) = races.values()
    assert race[0].pattern == Dense()
    assert {record.pattern for record in race} == {Dense(), LONG, SHORT, *WINDOWS}
    assert len({len(record.measurement.times_ms) for record in race}) == 1
    report = json.loads(run("report", "--suite", "efficiency", "--format", "json", "--db", home / "t.db").stdout)
    shares = {row["implementation"]: row["dense_share"] for row in report if row["seq_len"] == 200}
    assert len(shares) == 4
    assert all(share > 0 for share in shares.values())


def start(*words):
    """A real run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "autotune.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def measured_by(process, count):
    """Wait for so many measurements of a run; the worker that does them."""
    lines = iter(process.stdout.readline, "")
    for _ in range(count):
        assert next(line for line in lines if line.startswith("    ") and " error " in line)
    return next(child.pid for child in psutil.Process(process.pid).children())


MANY = ",".join(str(length) for length in range(500, 600))


@pytest.mark.slow
def test_a_tiny_real_run_measures_every_row_and_is_not_repeated(home):
    words = ("bench", *SMALL, "--lengths", "64,100", "--db", home / "t.db")
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert set(names(home / "t.db")) == set(NAMES)
    # The windows are unsupported at so few tokens.
    measured = [record for record in records(home / "t.db") if record.pattern.kind != "local_window"]
    assert {record.measurement.status for record in measured} == {Status.OK}
    assert all(record.measurement.rel_error < 5e-5 for record in measured)
    before = records(home / "t.db")
    assert run(*words).exit_code == 0
    assert records(home / "t.db") == before
    with Store.open(home / "t.db") as store:
        (rate,) = store.rates()
    assert rate.matmul_flops_per_s > 0


@pytest.mark.slow
def test_a_killed_run_leaves_a_sound_database_and_no_worker_and_goes_on_afterwards(home):
    path = home / "t.db"
    process = start("bench", *SMALL, "--lengths", MANY, "--db", path)
    try:
        worker = measured_by(process, 3)
    finally:
        process.kill()
        process.communicate()
    assert wait_until(lambda: gone(worker))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    before = records(path)
    assert len(before) >= 3
    assert run("bench", *SMALL, "--lengths", "500", "--db", path).exit_code == 0
    after = [record for record in records(path) if record.problem.kv_len == 500]
    assert after[: len(before)] == before[: len(after)]
    assert {EXTREME.name_of(record.problem, record.pattern, record.config) for record in after} == set(NAMES)


@pytest.mark.slow
def test_ctrl_c_in_a_real_run_is_exit_code_130_and_leaves_no_worker(home):
    process = start("bench", *SMALL, "--lengths", MANY, "--db", home / "t.db")
    try:
        worker = measured_by(process, 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"resume with:\n  autotune bench {' '.join(SMALL)} --lengths {MANY} --db {home / 't.db'}" in errors
    assert wait_until(lambda: gone(worker))
    assert records(home / "t.db")
