"""Rows: which record stands, what it is called, which figures it has."""

import math

import pytest

from autotune.db.records import Status
from autotune.reports.rows import entries, rows
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated

SDPA = Config.of("sdpa", backend="math")


def test_latest_measurement_stands(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    book.add(Dense(), SDPA, Status.OK, 2.0)
    [entry] = entries(book.source(records=book.records[::-1]))
    assert (entry.row.time_ms, entry.measured) == (2.0, 2)


def test_later_failure_replaces_success(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    book.add(Dense(), SDPA, Status.WRONG_RESULT, reason="all zeros")
    [row] = rows(book.source())
    assert row.status == "wrong_result"


def test_skipped_never_replaces_what_ran(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    book.add(Dense(), SDPA, Status.SKIPPED, reason="predicted over the limit")
    [entry] = entries(book.source())
    assert (entry.row.status, entry.measured) == ("ok", 1)


def test_longnet_is_one_implementation_over_the_lengths(book):
    for length in (1000, 4096, 100_000):
        book.add(Dilated.longnet(length), Config.of("ring"), length=length)
    found = rows(book.source())
    assert [row.implementation for row in found] == ["dilated/ring"] * 3
    assert [row.seq_len for row in found] == [1000, 4096, 100_000]
    assert len({row.pattern for row in found}) == 3


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (Dense(), "dense/ring"),
        (Dilated.longnet(4096, offsets="blocked"), "dilated blocked/ring"),
        (Dilated((1024,), (1,)), "dilated w=[1024] r=[1]/ring"),
        (LocalWindow(sparsity=0.95), "local_window 0.95/ring"),
        (LocalWindow(sparsity=0.95, block_size=64), "local_window 0.95 block=64/ring"),
    ],
)
def test_implementation(book, pattern, name):
    book.add(pattern, Config.of("ring"))
    assert rows(book.source())[0].implementation == name


def test_figures(book):
    book.add(Dense(), SDPA, Status.OK, 3.0, 2.0, 4.0, peak_memory_bytes=3 * 2**19)
    [row] = rows(book.source())
    assert (row.time_ms, row.time_min_ms, row.time_max_ms, row.repeats) == (3.0, 2.0, 4.0, 3)
    assert (row.peak_memory_mib, row.density) == (1.5, 1.0)
    assert row.tflops == pytest.approx(4 * 8 * 4096**2 * 64 / 3e-3 / 1e12)


@pytest.mark.parametrize("time_ms", [0.0, math.nan, math.inf])
def test_impossible_time_is_never_ranked(book, time_ms):
    book.add(Dense(), SDPA, Status.OK, time_ms)
    [entry] = entries(book.source())
    assert (entry.ranked_ms, entry.row.tflops) == (None, None)


@pytest.mark.parametrize("error", [None, math.nan, math.inf])
def test_unverified_row_is_never_ranked(book, error):
    book.add(Dense(), SDPA, Status.OK, 1.0, rel_error=error, max_abs_error=error)
    [entry] = entries(book.source())
    assert (entry.ranked_ms, entry.row.tflops, entry.row.rel_error, entry.row.max_abs_error) == (None,) * 4
    assert (entry.status_text, entry.row.flag) == ("ok but flagged", "no valid time or error")


@pytest.mark.parametrize("status", [status for status in Status if status != Status.OK])
def test_failure_is_never_ranked(book, status):
    book.add(Dense(), SDPA, status, 1.0)
    [entry] = entries(book.source())
    assert entry.ranked_ms is None
    assert entry.row.tflops is None
