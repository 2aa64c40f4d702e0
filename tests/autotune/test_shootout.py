import random
import statistics

import pytest

from autotune.shootout import shoot_out, still_open


class Clock:
    """Contestants of known medians, a few per cent of noise, and a count of the calls."""

    def __init__(self, *medians_ms, noise=0.02, seed=1):
        self.medians_ms = medians_ms
        self.noise = noise
        self.random = random.Random(seed)
        self.calls = [0] * len(medians_ms)

    def __call__(self, index):
        self.calls[index] += 1
        return self.medians_ms[index] * self.random.lognormvariate(0, self.noise)


def raced(clock, rounds=10, budget_s=60.0, extra_rounds=0):
    times = shoot_out(clock, len(clock.medians_ms), rounds=rounds, budget_s=budget_s, extra_rounds=extra_rounds)
    assert [len(each) for each in times] == clock.calls
    return clock.calls


def test_without_extra_rounds_everyone_runs_all():
    assert raced(Clock(1.0, 1.001, 5.0)) == [10, 10, 10]


def test_a_race_that_is_decided_gets_no_extra_rounds():
    assert raced(Clock(1.0, 1.5, 2.0), extra_rounds=70) == [10, 10, 10]


def test_who_has_lost_is_dropped_and_the_others_go_on():
    first, second, loser = raced(Clock(1.0, 1.01, 2.0), extra_rounds=70)
    assert loser == 10 < first == second


@pytest.mark.parametrize("ratio", [1.0, 1.001])
def test_equals_run_to_the_end_or_until_they_are_a_tie(ratio):
    assert raced(Clock(1.0, ratio), extra_rounds=70) == [80, 80]
    assert raced(Clock(1.0, ratio, noise=0.0001), extra_rounds=70) == [10, 10]


def test_a_lower_median_alone_does_not_end_a_race_that_the_rounds_leave_open():
    shares = [0.985, 0.999, 0.988, 0.999, 1.001, 0.985, 0.999, 0.988, 0.999]
    steady = [1.0] * 4 + [2.0] + [3.0] * 4  # while the machine becomes slower
    faster = [share * time for share, time in zip(shares, steady, strict=True)]
    assert statistics.median(steady) < statistics.median(faster)
    assert still_open([steady, faster], [0, 1]) == [0, 1]


@pytest.mark.parametrize(("budget_s", "count"), [(0.0, 2), (0.85, 5), (100.0, 10)])
def test_a_spent_budget_ends_it(budget_s, count):
    assert raced(Clock(100.0, 100.0, noise=0.0), budget_s=budget_s) == [count, count]


def test_a_spent_budget_ends_the_extra_rounds_too():
    first, second = raced(Clock(100.0, 100.0), budget_s=5.0, extra_rounds=70)
    assert first == second
    assert 24 <= first <= 26


def test_nobody_is_timed_if_nobody_runs():
    assert shoot_out(Clock(), 0, rounds=3, budget_s=1.0, extra_rounds=3) == []
