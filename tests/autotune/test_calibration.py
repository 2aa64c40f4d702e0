"""Predicted peak memory: what runs say of it, and how far that goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.calibration import LEAST_BYTES, Calibration, Calibrations
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

from .records import MIB, ok

LOW, HIGH, FAR = (Problem.self_attention(length) for length in (16384, 65536, 1 << 20))
RING = Config.of("ring", chunk_size=4096, compile="off", query_block=0)

sizes = st.floats(LEAST_BYTES, 1 << 40).map(round)
runs = st.lists(st.tuples(sizes, st.floats(0.7, 1.5)), min_size=1, max_size=16).map(
    lambda pairs: [(estimate, round(estimate * ratio)) for estimate, ratio in pairs]
)


@given(runs)
def test_no_run_it_rests_on_took_more_than_5_percent_over_the_prediction(known):
    calibration = Calibration.of(known)
    assert all(calibration.peak_bytes(estimate) >= 0.95 * peak - 1 for estimate, peak in known)


@given(runs, sizes)
def test_beyond_the_runs_no_prediction_is_5_percent_under_the_estimate(known, estimate):
    if estimate > max(known)[0]:
        assert Calibration.of(known).peak_bytes(estimate) >= 0.95 * estimate - 1


@given(runs, st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_larger_estimate_never_means_less_memory(known, one, other):
    calibration = Calibration.of(known)
    assert 0 <= calibration.peak_bytes(min(one, other)) <= calibration.peak_bytes(max(one, other))


@given(sizes, sizes, st.floats(0, 64 * MIB), st.floats(1.0, 1.5))
def test_two_runs_tell_what_is_fixed_and_what_grows(one, other, fixed_bytes, factor):
    short, long = sorted((one, other))
    known = [(estimate, round(fixed_bytes + factor * estimate)) for estimate in (short, long)]
    predicted, expected = Calibration.of(known).peak_bytes(100 * long), fixed_bytes + factor * 100 * long
    assert 0.95 * expected <= predicted + 1
    if long >= 1.5 * short:
        assert predicted <= 1.06 * expected  # 5 % of noise are not told from a factor


@pytest.mark.parametrize(
    ("known", "estimate", "expected"),
    [
        ([(8.0, 8.5), (12.5, 12.5)], 1000.0, 1000.0),
        ([(10.0, 12.0), (16.0, 16.0)], 1000.0, 1001.0),
        ([(20.0, 19.0), (40.0, 44.0)], 1.0, 1.1),
        ([(20.0, 19.0), (40.0, 44.0)], 1000.0, 1100.0),
        ([(10.0, 8.0), (100.0, 80.0)], 50.0, 40.0),
        ([(10.0, 8.0), (100.0, 80.0)], 101.0, 95.95),
    ],
)
def test_a_line_by_hand(known, estimate, expected):
    calibration = Calibration.of([(round(e * MIB), round(peak * MIB)) for e, peak in known])
    assert calibration.peak_bytes(round(estimate * MIB)) / MIB == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("strategy", ["sdpa", "ring"])
def test_where_nothing_of_the_kind_has_run_the_estimate_stands(strategy):
    known = Calibrations()
    known.note(LOW, Dense(), RING, ok(1.0, peak_mib=1000.0))
    config = STRATEGIES[strategy].space(FAR, Dense()).default
    other = Problem.self_attention(1 << 20, dtype="float16")
    for estimate in (0, 1, 1 << 30):
        prediction = known.predicted(other, config, estimate)
        assert (prediction.peak_bytes, prediction.basis) == (estimate, "estimated")


def test_a_run_speaks_for_its_own_kernel():
    flash, efficient = (Config.of("ring", chunk_size=4096, kernel=name) for name in ("flash", "efficient"))
    known = Calibrations()
    known.note(LOW, Dense(), RING, ok(1.0, peak_mib=1000.0))
    calibrated, plain = known.predicted(HIGH, RING, 1 << 28), known.predicted(HIGH, efficient, 1 << 28)
    assert calibrated.basis == "estimated, calibrated at 16,384 tokens"
    assert calibrated.peak_bytes > plain.peak_bytes == 1 << 28
    assert known.predicted(HIGH, flash, 1 << 28) == plain


def test_nothing_takes_less_than_its_output():
    known = Calibrations()
    for problem in (LOW, HIGH):
        known.note(problem, Dense(), RING, ok(1.0, peak_mib=problem.output_bytes / MIB))
    estimate = STRATEGIES["ring"].memory_bytes(HIGH, Dense(), RING)
    assert known.predicted(HIGH, RING, estimate).peak_bytes >= HIGH.output_bytes
    assert known.predicted(HIGH, RING, HIGH.output_bytes).peak_bytes == HIGH.output_bytes
