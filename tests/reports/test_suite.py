"""A report on a suite: its names, its order, and what was not run."""

import pytest

from autotune.db.records import Status
from autotune.reports.definitions import definitions, functions
from autotune.reports.markdown import markdown
from autotune.reports.rows import rows
from autotune.reports.sections import sections
from autotune.reports.tally import tally
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite_extreme import EXACT, EXTREME

READABLE = next(each for each in EXTREME.implementations if each.name == "DilatedAttention")
NAMES = [each.name for each in EXTREME.implementations]


def test_only_the_suites_rows_in_its_order(suite_source):
    found = [row.implementation for row in rows(suite_source)]
    assert len(found) == 21
    assert sorted(found, key=NAMES.index) == found


def test_every_implementation_stands_at_every_length(suite_source):
    [section] = sections(suite_source)
    assert list(section.implementations) == NAMES
    missing = [(name, n) for name in NAMES for n, entry in section.by_length(name) if entry is None]
    assert missing == [
        ("RingDilatedAttentionV2_r8", 8192),
        ("RingDilatedAttentionProduction_r16", 4096),
        ("RingDilatedAttentionProduction_r16", 8192),
    ]


def test_what_a_search_chose_is_no_matter_of_a_suite(suite_source):
    """The book holds a search's choice for dense attention at 4,096, which is not in the suite."""
    [section] = sections(suite_source)
    assert section.cells[0].winner.row.implementation == EXACT
    assert "flex" not in markdown(suite_source)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (Dilated.longnet(4096), "DilatedAttention"),
        (Dilated.longnet(4096, offsets="blocked"), "DilatedAttention blocked"),
        (Dilated((1024, 2048), (1, 2)), "DilatedAttention w=[1024, 2048] r=[1, 2]"),
        (Dilated((1024, 2048), (1, 2), "blocked"), "DilatedAttention w=[1024, 2048] r=[1, 2] blocked"),
    ],
)
def test_two_functions_never_share_a_name(book, pattern, name):
    problem = Problem.self_attention(4096, device="cuda", dtype="float16")
    book.add(pattern, READABLE.config(problem, pattern), Status.OK, 1.0)
    source = book.source(suite=EXTREME)
    assert [row.implementation for row in rows(source)] == [name]
    [section] = sections(source)
    assert [shown for shown in section.implementations if shown.startswith("DilatedAttention")] == [name]


def test_cells_are_counted_beside_the_baseline(suite_source):
    [section] = sections(suite_source)
    assert tally(section, EXTREME) == "17 of 22 cells ok; 1 of 2 cells of the exact baseline Exact_SDPA"


def test_a_search_for_one_implementations_limit_is_no_omission_of_the_others(book, suite_source):
    [window] = EXTREME.of(LocalWindow(0.9))
    for length in (12288, 16384):
        problem = Problem.self_attention(length, device="cuda", dtype="float16")
        config = window.config(problem, LocalWindow(0.9))
        book.add(LocalWindow(0.9), config, length=length, times_ms=(9.0,))
    [section] = sections(suite_source)
    assert (section.lengths, section.grid) == ([4096, 8192, 12288, 16384], [4096, 8192])
    assert [n for n, _ in section.by_length("DilatedAttention")] == [4096, 8192]
    assert [n for n, _ in section.by_length("BlockSparse_LocalWindow_0.9")] == [4096, 8192, 12288, 16384]
    assert tally(section, EXTREME).startswith("17 of 22 cells ok")
    assert "only in the detailed results: 12,288, 16,384 tokens." in markdown(suite_source)


def test_definitions_name_the_function_of_each_length(suite_source):
    found = sections(suite_source)
    named = {each.name: each for each in definitions(EXTREME, found)}
    assert list(named) == NAMES
    assert all(named[each.name].text == each.definition for each in EXTREME.implementations)
    assert named["DilatedAttention"].families == ("dilated",)
    assert named["RingDilatedAttentionProduction_r16"].families == ()
    exact = {each.family: each.text for each in functions(found)}
    assert exact["dilated"] == "dilated w=[2048, 4096] r=[1, 4] at 4,096; dilated w=[2048, 8192] r=[1, 4] at 8,192"
    assert exact["local_window 0.9"] == LocalWindow(0.9).label


def test_nothing_of_the_suite_is_measured_yet(book):
    book.add(Dense(), Config.of("flex"), Status.OK, 1.0)
    assert "autotune bench --suite extreme" in markdown(book.source(suite=EXTREME))
