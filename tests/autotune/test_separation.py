"""The statistics of the final, by simulation with planted ratios and noise."""

import random

import pytest

from autotune.separation import CONFIDENCE, TIE, student_t, time_ratio


def rounds(generator, count, ratio=1.0, noise=0.03, disturbed=0.0):
    """Times of two contestants: shared disturbance, own noise, and sometimes another process in one of them."""

    def own():
        return generator.lognormvariate(0, noise) * (3.0 if generator.random() < disturbed else 1.0)

    shared = [generator.lognormvariate(0, 0.3) for _ in range(count)]
    return [ratio * each * own() for each in shared], [each * own() for each in shared]


def separated(ratio, count, trials=1000, **noise):
    generator = random.Random(7)
    return sum(time_ratio(*rounds(generator, count, ratio, **noise)).slower for _ in range(trials)) / trials


@pytest.mark.parametrize("disturbed", [0.0, 0.1])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
def test_equals_are_hardly_ever_separated(count, disturbed):
    # One side of the interval, half a per cent; twice that at 5 rounds, of which trimming leaves 3.
    assert separated(1.0, count, disturbed=disturbed) <= (1 - CONFIDENCE) * 1.5


@pytest.mark.parametrize(("ratio", "count"), [(1.1, 15), (1.05, 30), (1.03, 80)])
@pytest.mark.parametrize("disturbed", [0.0, 0.05])
def test_the_slower_is_found_though_rounds_are_disturbed(ratio, count, disturbed):
    assert separated(ratio, count, disturbed=disturbed) >= 0.9


@pytest.mark.parametrize("count", [3, 10, 40])
def test_the_interval_covers_the_planted_ratio_as_often_as_it_says(count):
    generator = random.Random(3)
    intervals = [time_ratio(*rounds(generator, count, 1.2)) for _ in range(1000)]
    covered = sum(each.low <= 1.2 <= each.high for each in intervals) / 1000
    assert covered >= CONFIDENCE - 0.012


def test_a_shared_disturbance_is_no_noise():
    slow, fast = rounds(random.Random(1), 10, 1.02, noise=0.001)
    assert max(fast) > 1.5 * min(fast)
    assert time_ratio(slow, fast).slower


def test_the_ratio_turned_round_is_the_inverse():
    slow, fast = rounds(random.Random(1), 11, 1.3)
    there, back = time_ratio(slow, fast), time_ratio(fast, slow)
    assert there.estimate * back.estimate == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


@pytest.mark.parametrize(("ratio", "slower", "settled"), [(1 + TIE / 2, False, True), (1 + 2 * TIE, True, True)])
def test_what_is_sure_and_nearer_than_a_tie_is_a_tie(ratio, slower, settled):
    verdict = time_ratio([ratio] * 5, [1.0] * 5)
    assert (verdict.slower, verdict.settled) == (slower, settled)


def test_one_round_says_nothing_and_only_common_rounds_count():
    assert not time_ratio([9.0], [1.0]).settled
    assert time_ratio([2.0, 2.0, 2.0], [1.0, 1.0]).estimate == pytest.approx(2)


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 63.657), (2, 9.925), (5, 4.032), (10, 3.169), (29, 2.756), (120, 2.617)]
)
def test_students_t_is_that_of_the_tables(freedom, t):
    assert student_t(0.99, freedom) == pytest.approx(t, abs=6e-4)
