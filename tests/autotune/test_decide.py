import pytest

from autotune.db.records import Measurement, Status
from autotune.decide import APART_TIE, best_config
from autotune.strategies.config import Config

A, B, C = (Config.of(name) for name in "abc")
LIMIT = 1000


def ok(ms, peak=1):
    return Measurement(status=Status.OK, times_ms=(ms,), peak_memory_bytes=peak)


def chosen(tried, defaults=(), limit=LIMIT):
    return best_config(tried, limit, set(defaults))


def test_the_fastest_median_wins_with_its_margin():
    tried = {A: ok(3.0), B: Measurement(status=Status.OK, times_ms=(2.0, 90.0, 1.0)), C: ok(4.0)}
    best = chosen(tried)
    assert best.config == B
    assert best.margin == pytest.approx(0.5)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_what_is_not_ok_never_wins_however_fast(status):
    fast = Measurement(status=status, times_ms=(0.001,), peak_memory_bytes=1)
    best = chosen({A: fast, B: ok(9.0)})
    assert (best.config, best.margin) == (B, None)
    assert chosen({A: fast}) is None


@pytest.mark.parametrize(("peak", "winner"), [(LIMIT, A), (LIMIT + 1, B)])
def test_a_peak_over_the_limit_is_out_and_one_at_the_limit_is_in(peak, winner):
    assert chosen({A: ok(1.0, peak), B: ok(2.0)}).config == winner


def test_nothing_that_fits_is_no_choice():
    assert chosen({}) is None
    assert chosen({A: ok(1.0, LIMIT + 1)}) is None


@pytest.mark.parametrize(("slower", "winner"), [(1 + APART_TIE / 2, B), (1 + 2 * APART_TIE, A)])
def test_a_tie_goes_to_the_default(slower, winner):
    assert chosen({A: ok(1.0), B: ok(slower, peak=9)}, defaults=[B]).config == winner


def test_a_tie_without_a_default_goes_to_less_memory_and_then_to_less_time():
    assert chosen({A: ok(1.0, 5), B: ok(1.01, 4)}).config == B
    assert chosen({A: ok(1.01, 5), B: ok(1.0, 5)}).config == B


def test_ties_do_not_chain():
    assert chosen({A: ok(1.0), B: ok(1.015), C: ok(1.03)}, defaults=[C]).config == A


def test_the_margin_of_a_default_that_won_a_tie_may_be_negative():
    assert chosen({A: ok(1.0), B: ok(1.01)}, defaults=[B]).margin == pytest.approx(1 / 1.01 - 1)


def test_a_measurement_without_times_or_peak_is_judged_by_what_it_has():
    assert chosen({A: Measurement(status=Status.OK, peak_memory_bytes=1)}) is None
    assert chosen({A: Measurement(status=Status.OK, times_ms=(1.0,))}).config == A


def raced(*times_ms, peak=1):
    return Measurement(status=Status.OK, times_ms=times_ms, peak_memory_bytes=peak)


def test_after_a_race_rounds_are_compared_and_not_medians():
    # The machine slows down: every round is 10 % faster for B, though the medians are those of different rounds.
    slow, fast = [1.1 * 2.0**n for n in range(5)], [2.0**n for n in range(5)]
    best = best_config({A: raced(*slow), B: raced(*fast)}, LIMIT, {A}, raced=True)
    assert best.config == B
    assert best.margin == pytest.approx(0.1)


def test_the_default_loses_a_race_only_beyond_doubt():
    doubtful = {A: raced(1.10, 1.00, 1.15, 0.98), B: raced(1.0, 1.01, 1.0, 1.02)}
    assert best_config(doubtful, LIMIT, {A}, raced=True).config == A
    assert best_config(doubtful, LIMIT, (), raced=True).config == B
    sure = {A: raced(1.10, 1.11, 1.12, 1.11), B: raced(1.0, 1.01, 1.0, 1.02)}
    assert best_config(sure, LIMIT, {A}, raced=True).config == B


def test_a_tie_in_a_race_goes_to_less_memory():
    tie = {A: raced(1.001, 1.0, 1.002, peak=4), B: raced(1.0, 1.001, 1.0, peak=5)}
    assert best_config(tie, LIMIT, (), raced=True).config == A


def test_who_was_dropped_from_a_race_does_not_win_by_the_few_rounds_it_ran():
    quiet, busy = [1.0] * 4, [2.0] * 4
    tried = {A: raced(*[1.5 * ms for ms in quiet]), B: raced(*quiet, *busy, *busy)}
    assert best_config(tried, LIMIT, (), raced=True).config == B
