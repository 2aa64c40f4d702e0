"""What is not believed: it keeps its figures, and is never a best, a winner or the base of a speed-up."""

from dataclasses import replace

import pytest

from autotune.db.records import Status
from autotune.reports.markdown import markdown
from autotune.reports.rows import entries, rows
from autotune.reports.sections import sections
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated

HONEST, FAKE, RING = Config.of("sdpa", backend="math"), Config.of("sdpa", backend="fake"), Config.of("ring")
TFLOP = 4 * 8 * 4096**2 * 64 / 1e12  # of dense attention at 4,096 tokens


@pytest.fixture
def faked(book):
    """Exact attention at 1 and at 10 times the device's rate, and a longer run at 5 times."""
    book.measure(TFLOP)
    book.add(Dense(), HONEST, Status.OK, 1000.0)
    book.choose(book.add(Dense(), FAKE, Status.OK, 100.0, peak_memory_bytes=2**20), 0.5)
    book.add(Dense(), FAKE, Status.OK, 800.0, length=8192)
    book.add(Dilated.longnet(4096), RING, Status.OK, 2000.0)
    return book


def test_a_rate_above_the_measured_peak_is_flagged_with_both_figures(faked):
    flags = {(row.config, row.seq_len): row.flag for row in rows(faked.source()) if row.flag}
    assert flags == {
        (FAKE.text, 4096): "achieved 0.344 TFLOP/s is above the device's measured peak, 0.0344 TFLOP/s",
        (FAKE.text, 8192): "achieved 0.172 TFLOP/s is above the device's measured peak, 0.0344 TFLOP/s",
    }


def test_a_flagged_row_keeps_its_figures(faked):
    flagged, *_ = [entry for entry in entries(faked.source()) if entry.row.flag]
    assert (flagged.row.time_ms, flagged.row.peak_memory_mib) == (100.0, 1.0)
    assert flagged.row.matmul_share == pytest.approx(10.0)
    assert (flagged.ranked_ms, flagged.status_text) == (None, "ok but flagged")


def test_a_flagged_row_wins_nothing(faked):
    [section] = sections(faked.source(choices=[]))
    winners = {(cell.pattern.kind, cell.seq_len): cell.winner for cell in section.cells}
    assert winners["dense", 4096].row.config == HONEST.text
    assert winners["dense", 8192] is None
    assert section.fastest_dense.keys() == {4096}
    assert section.speed_up(winners["dilated", 4096]) == 0.5
    text = markdown(faked.source(choices=[]))
    assert "| `dense/sdpa` | 4,096 | `sdpa(backend=math)` | 1,000.0 |" in text
    assert "- 4,096 tokens: fastest is `dense/sdpa`, 1,000.0 ms; it is exact" in text
    assert "- 8,192 tokens: no result can be ranked." in text


def test_a_choice_that_is_flagged_is_named_without_figures(faked):
    text = markdown(faked.source())
    assert "| `sdpa(backend=fake)` (now ok but flagged) | search | - | - | - |" in text
    assert "- `dense/sdpa` at 4,096, `sdpa(backend=fake)`, ok: `achieved 0.344 TFLOP/s is above" in text


def test_the_peak_is_the_best_of_its_environment_and_dtype(book):
    book.add(Dense(), HONEST, Status.OK, 1000.0)
    book.measure(TFLOP * 2)
    book.measure(TFLOP * 4)
    book.measure(TFLOP * 3)
    book.measure(TFLOP * 9, dtype="float32")
    book.measure(TFLOP * 9, environment=replace(book.records[0].environment, driver="other"))
    [row] = rows(book.source())
    assert row.matmul_share == pytest.approx(0.25)
    assert "matrix product 0.137 TFLOP/s, copy 20.0 GB/s" in markdown(book.source())


def test_without_a_rate_there_is_no_share_and_no_suspicion(book):
    book.add(Dense(), HONEST, Status.OK, 1e-6)
    [row] = rows(book.source())
    assert (row.matmul_share, row.flag) == (None, "")


@pytest.mark.parametrize(("reason", "flag"), [("all zeros", "all zeros"), ("", "the output is wrong")])
def test_a_wrong_result_is_flagged_with_its_reason(book, reason, flag):
    book.add(Dense(), HONEST, Status.WRONG_RESULT, 1.0, reason=reason)
    [row] = rows(book.source())
    assert (row.status, row.flag) == ("wrong_result", flag)


@pytest.mark.parametrize("status", [status for status in Status if status not in (Status.OK, Status.WRONG_RESULT)])
def test_what_has_no_result_is_not_flagged(book, status):
    book.add(Dense(), HONEST, status, 1.0, reason="whatever")
    [row] = rows(book.source())
    assert row.flag == ""
