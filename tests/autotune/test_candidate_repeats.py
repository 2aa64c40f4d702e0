"""How often a candidate is called, by the time its first call takes; in this process, on a clock that is told."""

import planted
import pytest
import torch
from test_worker import candidate

from autotune.candidate import Bench
from autotune.db.records import Status
from autotune.strategies.config import Config
from autotune.timing import MAX_REPEATS, MIN_REPEATS

BUDGET_S = 1.0
MIB = 1 << 20


class Counting(planted.Planted):
    """Right for so many calls, then zeros; may take memory while it runs."""

    name = "counting"

    def __init__(self, right=1000, mib=0):
        self.right = right
        self.mib = mib
        self.calls = 0

    def build(self, problem, pattern, config):
        def attend(query, key, value, *, scale=None):
            self.calls += 1
            workspace = torch.ones(self.mib * MIB // 4)
            out = self.attend(query, key, value, scale=scale)
            return out + 0 * workspace.sum() if self.calls <= self.right else torch.zeros_like(out)

        return attend


@pytest.fixture(scope="module")
def bench():
    """Keeps inputs and oracle for all tests here, as a worker does."""
    return Bench()


@pytest.fixture
def measure(bench, monkeypatch):
    """Try a strategy whose calls take so many milliseconds by the clock, the last of them again and again."""

    def measure(strategy, *times_ms, **changes):
        taken = iter(times_ms)

        def timed(call, device):
            return call(), next(taken, times_ms[-1])

        for module in ("candidate", "timing"):
            monkeypatch.setattr(f"autotune.{module}.timed", timed)
        return bench.measure(candidate(strategy, timing_budget_s=BUDGET_S, **changes), lambda phase: None)

    return measure


@pytest.mark.parametrize(
    ("first_ms", "repeats"), [(1001.0, 3), (3300.0, 3), (3400.0, 2), (5000.0, 2), (5100.0, 1), (600_000.0, 1)]
)
def test_a_slow_candidate_is_called_as_often_as_patience_allows(measure, first_ms, repeats):
    strategy = Counting()
    measured = measure(strategy, first_ms, 2000.0)
    assert measured.status is Status.OK
    assert measured.times_ms == (first_ms, *[2000.0] * (repeats - 1))
    assert strategy.calls == repeats + (repeats > 1)  # and once more while memory is watched, which slows it down


@pytest.mark.parametrize(("call_ms", "repeats"), [(1.0, MAX_REPEATS), (100.0, 10), (1000.0, MIN_REPEATS)])
def test_a_fast_candidate_is_repeated_beside_the_calls_that_are_checked(measure, call_ms, repeats):
    strategy = Counting()
    measured = measure(strategy, call_ms)
    assert measured.times_ms == (call_ms,) * repeats
    assert strategy.calls == repeats + 3  # the gate's, the one whose memory is watched, and the one checked last


def test_the_first_call_of_a_fast_candidate_is_not_among_its_times(measure):
    assert 999.0 not in measure(Counting(), 999.0, 1.0).times_ms


def test_a_compiled_candidate_is_never_timed_by_its_first_call(measure):
    strategy = Counting()
    measured = measure(strategy, 60_000.0, 100.0, config=Config.of("counting", compile="default"))
    assert measured.times_ms == (100.0,) * 10


@pytest.mark.parametrize(("drop_over_ms", "repeats", "calls"), [(1499.0, 1, 1), (1501.0, 3, 4)])
def test_a_slow_candidate_that_has_lost_is_not_called_again(measure, drop_over_ms, repeats, calls):
    strategy = Counting()
    measured = measure(strategy, 1500.0, drop_over_ms=drop_over_ms)
    assert len(measured.times_ms) == repeats
    assert strategy.calls == calls


@pytest.mark.parametrize("first_ms", [1.0, 1500.0, 4000.0])
def test_a_candidate_that_is_right_at_first_and_wrong_later_is_caught(measure, first_ms):
    measured = measure(Counting(right=1), first_ms)
    assert measured.status is Status.WRONG_RESULT
    assert "all zeros" in measured.reason
    assert measured.reason.startswith("after ")
    assert measured.times_ms == ()


@pytest.mark.parametrize("first_ms", [1.0, 1500.0, 60_000.0])
def test_a_candidate_that_is_wrong_at_first_is_called_no_more(measure, first_ms):
    strategy = Counting(right=0)
    assert measure(strategy, first_ms).status is Status.WRONG_RESULT
    assert strategy.calls == 1


@pytest.mark.parametrize("first_ms", [100.0, 1500.0, 60_000.0])
def test_the_peak_memory_of_a_call_is_measured_however_slow_it_is(measure, first_ms):
    measured = measure(Counting(mib=64), first_ms)
    assert abs(measured.peak_memory_bytes - 64 * MIB) < 4 * MIB
