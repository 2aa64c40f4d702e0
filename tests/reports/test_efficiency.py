"""Rows held against exact attention: whole texts, and what is and what is not compared."""

import csv
import io
import json

import pytest
from rich.console import Console

from autotune.db.records import Run, Status
from autotune.reports.efficiency import held
from autotune.reports.formats import render
from autotune.reports.html_format import html
from autotune.reports.sections import sections
from autotune.reports.terminal import terminal_summary
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem
from autotune.strategies.suite_efficiency import EFFICIENCY, LONG, SHORT, WINDOWS
from autotune.strategies.suite_extreme import EXTREME

from .conftest import GPU, START

DENSE_FLOPS_PER_MS = 5e9
RUN = Run(command="autotune bench --suite efficiency", started_at=START)
TUNED = Config.of("dilated", query_block=65536, compile="off")


class Bench:
    """Writes down what a run of the suite would have measured, on a device whose dense attention does 5 TFLOP/s."""

    def __init__(self, book, direction="forward"):
        self.book = book
        self.direction = direction

    def add(self, pattern, length, share, name=None, config=None, race=None, **facts):
        """A row that reaches a share of the dense rate in three rounds, none of which is quite alike."""
        problem = Problem.self_attention(length, dtype="float16", device="cuda", direction=self.direction)
        rows = {each.name: config for config, each in EFFICIENCY.rows(problem, pattern).items()}
        time_ms = pattern.flops(problem) / DENSE_FLOPS_PER_MS / share
        times_ms = (time_ms, time_ms * 0.9, time_ms * 1.25) if race else (time_ms,)
        facts = {"peak_memory_bytes": length * 1024, "max_abs_error": 0.001, "run": RUN, **facts}
        config = config or rows[name or next(iter(rows))]
        facts = {"direction": self.direction, "length": length, "times_ms": times_ms, "race": race, **facts}
        return self.book.add(pattern, config, **facts)


@pytest.fixture
def source(book):
    """Both directions; at 8,192 tokens exact attention is raced, at 65,536 unknown, at 131,072 measured apart."""
    bench = Bench(book)
    for length in (4096, 8192, 16384, 32768, 131072):
        bench.add(Dense(), length, 0.99)
    for pattern, length in ((LONG, 8192), (SHORT, 65536), (LONG, 131072)):
        bench.add(pattern, length, 0.5, "dilated")
    for window, length in ((WINDOWS[0], 8192), (WINDOWS[1], 8192), (WINDOWS[0], 131072)):
        bench.add(window, length, 0.95)
    bench.add(WINDOWS[1], 8192, 0.5, "flex", status=Status.OOM, reason="out of memory", times_ms=())
    bench.add(Dense(), 32768, 1.0, race="a")
    bench.add(Dense(), 8192, 1.05, race="a")
    bench.add(LONG, 8192, 0.875, "dilated", race="a")
    bench.add(LONG, 8192, 0.85, "ring", race="a")
    book.choose(bench.add(LONG, 8192, 0.9, config=TUNED, race="a"))
    for window in WINDOWS:
        bench.add(window, 8192, 0.95, race="a")
    bench.add(WINDOWS[0], 8192, 0.75)  # a search came by afterwards
    bench.add(Dense(), 32768, 0.5, race="b")
    bench.add(SHORT, 65536, 0.45, "dilated", race="b")
    bench.add(Dense(), 32768, 1.0, race="c")
    bench.add(LONG, 131072, 0.8, "dilated", race="c")
    training = Bench(book, "training")
    training.add(Dense(), 16384, 1.0, race="d")
    training.add(LONG, 8192, 0.8, "dilated", race="d")
    training.add(WINDOWS[0], 8192, 1.0, "flex", status=Status.UNSUPPORTED, reason="no backward", times_ms=())
    book.measure(20.0)
    return book.source(suite=EFFICIENCY)


def efficiencies(source):
    """By implementation, length and direction."""
    return {
        (entry.row.implementation, entry.row.seq_len, entry.record.problem.direction): efficiency
        for section in sections(source)
        for entry, efficiency in held(section, source.records)
    }


NAME = "dilated w=[2048, 4096, 8192] r=[1, 2, 4]"


@pytest.mark.parametrize(
    ("name", "file"), [("markdown", "efficiency.md"), ("json", "efficiency.json"), ("csv", "efficiency.csv")]
)
def test_whole_text(source, check, name, file):
    check(file, render(name, source))


def test_whole_text_in_a_terminal(source, check):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(terminal_summary(source))
    check("efficiency.txt", "".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def test_a_share_is_of_the_medians_of_one_race(source):
    found = efficiencies(source)
    row = found[f"{NAME}/dilated", 8192, "forward"]
    assert (row.dense_len, row.rounds) == (32768, 3)
    assert row.dense_tflops == pytest.approx(5.0)
    assert row.dense_share == pytest.approx(0.875)
    assert (row.dense_share_min, row.dense_share_max) == (pytest.approx(0.875), pytest.approx(0.875))  # alike by round
    assert found["dilated w=[1024, 2048, 4096] r=[1, 2, 4]/dilated", 65536, "forward"].dense_share == pytest.approx(0.9)
    assert found[f"{NAME}/dilated", 8192, "training"].dense_len == 16384


def test_noise_that_hits_single_rounds_shows(book):
    bench = Bench(book)
    bench.add(Dense(), 16384, 1.0, race="a", times_ms=(100.0, 100.0, 200.0))
    bench.add(LONG, 8192, 1.0, "dilated", race="a", times_ms=(10.0, 20.0, 10.0))
    (row,) = efficiencies(book.source(suite=EFFICIENCY)).values()
    assert row.dense_share_max / row.dense_share_min == pytest.approx(4.0)
    assert row.dense_share_min < row.dense_share < row.dense_share_max


def test_a_later_measurement_without_a_race_takes_nothing_away(source):
    assert efficiencies(source)["local_window 0.9/block_sparse", 8192, "forward"].dense_share == pytest.approx(0.95)


def test_a_race_of_another_suite_has_its_reference_at_the_same_length_and_does_not_replace_ours(source, book):
    bench = Bench(book)
    bench.add(Dense(), 8192, 1.0, race="other")
    bench.add(WINDOWS[0], 8192, 0.5, race="other")
    found = efficiencies(book.source(suite=EFFICIENCY))
    assert found["local_window 0.9/block_sparse", 8192, "forward"].dense_len == 32768


def test_at_the_references_own_length_it_is_raced_once(book):
    bench = Bench(book)
    bench.add(Dense(), 8192, 1.0, race="a")
    bench.add(LONG, 8192, 0.8, "dilated", race="a")
    found = efficiencies(book.source(suite=EFFICIENCY))
    assert found["exact", 8192, "forward"].dense_share == 1.0
    assert found[f"{NAME}/dilated", 8192, "forward"].dense_share == pytest.approx(0.8)


def test_exact_attention_is_of_the_race_measured_apart_or_predicted(source):
    found = efficiencies(source)
    raced, apart = found[f"{NAME}/dilated", 8192, "forward"], found[f"{NAME}/dilated", 131072, "forward"]
    predicted = found["dilated w=[1024, 2048, 4096] r=[1, 2, 4]/dilated", 65536, "forward"]
    assert (raced.exact_basis, apart.exact_basis, predicted.exact_basis) == ("same race", "another time", "predicted")
    fewer = {
        n: Dense().flops(Problem.self_attention(n)) / LONG.flops(Problem.self_attention(n)) for n in (8192, 131072)
    }
    assert raced.times_faster == pytest.approx(fewer[8192] * 0.875 / 1.05)
    assert apart.times_faster == pytest.approx(fewer[131072] * 0.8 / 0.99)
    at = Problem.self_attention(65536)
    assert predicted.times_faster == pytest.approx(Dense().flops(at) / SHORT.flops(at) * 0.45 / 0.5)


def test_what_was_never_raced_has_no_share_but_is_compared(source):
    row = efficiencies(source)["local_window 0.9/block_sparse", 131072, "forward"]
    assert (row.dense_share, row.rounds, row.exact_basis) == (None, 0, "another time")
    assert row.times_faster == pytest.approx(9.6, rel=0.05)


def test_lengths_at_which_only_the_reference_was_looked_for_are_left_out(source):
    assert {length for _, length, _ in efficiencies(source)} == {8192, 65536, 131072}


def test_what_a_search_settled_on_is_marked_in_its_own_environment_only(source, book):
    found = efficiencies(source)
    assert [name for (name, *_), row in found.items() if row.chosen] == [f"{NAME}/tuned"]
    elsewhere = book.source(suite=EFFICIENCY, choices=[])
    assert f"{NAME}/tuned" not in {name for name, *_ in efficiencies(elsewhere)}
    [section] = {section.environment for section in sections(source)}
    assert section == GPU


def test_a_row_that_is_not_believed_is_held_against_nothing(book):
    bench = Bench(book)
    bench.add(Dense(), 16384, 1.0, race="a")
    bench.add(LONG, 8192, 0.8, "dilated", race="a")
    bench.add(LONG, 8192, 5.0, "ring", race="a")
    book.measure(20.0)
    assert [name for name, *_ in efficiencies(book.source(suite=EFFICIENCY))] == [f"{NAME}/dilated"]


def test_other_reports_have_nothing_of_it(source, book):
    for suite in (None, EXTREME):
        other = book.source(suite=suite)
        assert efficiencies(other) == {}
        assert "Held against exact attention" not in render("markdown", other)
        assert "dense_share" not in render("csv", other)


def test_flat_formats_agree(source):
    read = list(csv.DictReader(io.StringIO(render("csv", source))))
    found = json.loads(render("json", source))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]
    assert {row["dense_len"] for row in found} == {None, 16384, 32768}


def test_the_page_has_the_table_and_the_plot(source):
    page = html(source)
    assert page.count('id="section-1-efficiency"') == page.count('id="section-1-dense-share"') == 1
    assert "Share of exact attention&#39;s rate" in page


def test_nothing_is_measured_yet(book):
    assert "autotune bench --suite efficiency" in render("markdown", book.source(suite=EFFICIENCY))
    assert render("json", book.source(suite=EFFICIENCY)) == "[]\n"
