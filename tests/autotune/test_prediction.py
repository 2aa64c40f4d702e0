"""Between measured lengths: a power law through both, and how far the two agree."""

from dataclasses import replace

import pytest

from autotune.db.records import Status
from autotune.environment import environment_of
from autotune.prediction import Evidence
from autotune.selector import Selector
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.sdpa import Sdpa

from .records import CPU, failed, ok, stored

DENSE = Dense()
AUTO = Config.of("sdpa", backend="auto", compile="off")
MATH = Config.of("sdpa", backend="math", compile="off")
RING = Config.of("ring", chunk_size=1024, compile="off", query_block=0)
LOW, BETWEEN, HIGH = (Problem.self_attention(length) for length in (1024, 2048, 4096))
PLENTY = 1 << 40


@pytest.fixture
def evidence(tmp_path):
    def evidence(*entries):
        return Evidence(stored(tmp_path / "t.db", entries))

    return evidence


def test_time_follows_a_power_law_between_two_lengths(evidence):
    (option,) = evidence((LOW, DENSE, AUTO, ok(1.0)), (HIGH, DENSE, AUTO, ok(64.0))).interpolated(BETWEEN, DENSE)
    assert option.time_ms == pytest.approx(8.0)  # arithmetic grows 16-fold, time 64-fold: half way is 8-fold
    assert option.confidence == pytest.approx(4.0 / 16.0)  # from below 4 ms, from above 16 ms


def test_lengths_that_agree_are_trusted(evidence):
    (option,) = evidence((LOW, DENSE, AUTO, ok(1.0)), (HIGH, DENSE, AUTO, ok(16.0))).interpolated(BETWEEN, DENSE)
    assert option.time_ms == pytest.approx(4.0)
    assert option.confidence == pytest.approx(1.0)


def test_the_winner_changes_where_the_predictions_cross(tmp_path):
    # One has an overhead, the other a rate: they cross between the two lengths.
    entries = [(LOW, AUTO, 1.0), (LOW, RING, 2.0), (HIGH, AUTO, 40.0), (HIGH, RING, 16.0)]
    records = stored(tmp_path / "t.db", [(problem, DENSE, config, ok(ms)) for problem, config, ms in entries])
    choose = Selector(environment_of(CPU), records).choose
    near, far = (Problem.self_attention(length) for length in (1100, 3900))
    for problem, config in ((near, AUTO), (far, RING)):
        decision = choose(problem, [DENSE], PLENTY)
        assert (decision.config, decision.source) == (config, "interpolated")
        assert decision.record.problem == (LOW if problem is near else HIGH)
        assert "trust     0." in decision.text


def test_decoding_is_interpolated_between_numbers_of_keys(evidence):
    low, between, high = (replace(BETWEEN, query_len=1, kv_len=keys) for keys in (1024, 2000, 4096))
    known = evidence((low, DENSE, AUTO, ok(1.0)), (high, DENSE, AUTO, ok(4.0)), (LOW, DENSE, RING, ok(1.0)))
    (option,) = known.interpolated(between, DENSE)
    assert (option.config, option.time_ms) == (AUTO, pytest.approx(2000 / 1024))
    assert option.confidence == pytest.approx(1.0)


def test_what_was_measured_on_one_side_keeps_its_distance_there(evidence):
    # A call costs 1 ms besides its arithmetic: what only the longer one knows is not the faster for that.
    known = evidence((LOW, DENSE, AUTO, ok(2.0)), (HIGH, DENSE, AUTO, ok(17.0)), (HIGH, DENSE, RING, ok(18.7)))
    times = {option.config: option.time_ms for option in known.interpolated(BETWEEN, DENSE)}
    assert times[RING] == pytest.approx(1.1 * times[AUTO])


def test_what_a_new_length_needs_is_estimated_once(evidence, monkeypatch):
    known = evidence((LOW, DENSE, AUTO, ok(1.0)), (HIGH, DENSE, AUTO, ok(4.0)))
    asked, memory_bytes = [], Sdpa.memory_bytes
    monkeypatch.setattr(Sdpa, "memory_bytes", lambda *a: asked.append(a[1]) or memory_bytes(*a))
    length = Problem.self_attention(2049)
    for _ in range(3):
        assert len(known.interpolated(length, DENSE)) == 1
    assert asked == [length]


def test_one_length_is_no_interpolation(evidence):
    assert evidence((LOW, DENSE, AUTO, ok(1.0))).interpolated(BETWEEN, DENSE) == []
    nothing_common = evidence((LOW, DENSE, AUTO, ok(1.0)), (HIGH, DENSE, RING, ok(1.0)))
    assert nothing_common.interpolated(BETWEEN, DENSE) == []


@pytest.mark.parametrize("change", [{"heads": 4, "kv_heads": 4}, {"causal": True}, {"head_dim": 32}], ids=str)
def test_lengths_of_another_shape_are_no_interpolation(evidence, change):
    known = evidence((LOW, DENSE, AUTO, ok(1.0)), (replace(HIGH, **change), DENSE, AUTO, ok(1.0)))
    assert known.interpolated(BETWEEN, DENSE) == []


@pytest.mark.parametrize("status", [Status.WRONG_RESULT, Status.CRASHED])
def test_what_was_wrong_at_one_of_the_lengths_is_not_trusted_between(evidence, status):
    known = evidence(
        (LOW, DENSE, AUTO, ok(1.0)), (HIGH, DENSE, AUTO, ok(1.0)), (LOW, DENSE, RING, ok(0.1)),
        (HIGH, DENSE, RING, failed(status)),
    )  # fmt: skip
    assert [option.config for option in known.interpolated(BETWEEN, DENSE)] == [AUTO]


def test_a_schedule_that_grows_with_the_length_is_interpolated_by_its_kind(evidence):
    config = Config.of("dilated", compile="off", query_block=0)
    known = evidence(*((problem, Dilated.longnet(problem.kv_len), config, ok(2.0)) for problem in (LOW, HIGH)))
    (option,) = known.interpolated(BETWEEN, Dilated.longnet(2048))
    assert option.pattern == Dilated.longnet(2048)


@pytest.mark.parametrize("peak_bytes", [None, 0])
def test_a_run_whose_memory_was_not_seen_takes_what_is_estimated(evidence, peak_bytes):
    unseen = replace(ok(1.0), peak_memory_bytes=peak_bytes)
    (option,) = evidence((LOW, DENSE, AUTO, unseen)).measured(LOW, DENSE)
    estimate = STRATEGIES["sdpa"].memory_bytes(LOW, DENSE, AUTO)
    assert (option.memory.peak_bytes, option.memory.basis) == (estimate, "estimated")
    (option,) = evidence((LOW, DENSE, AUTO, ok(1.0, peak_mib=9.0))).measured(LOW, DENSE)
    assert (option.memory.peak_bytes, option.memory.basis) == (9 << 20, "measured")


def test_shipped_results_serve_where_nothing_is_measured(tmp_path):
    shipped = stored(tmp_path / "t.db", [(LOW, DENSE, RING, ok(1.0)), (LOW, DENSE, MATH, ok(2.0))])
    here = environment_of(CPU)
    decision = Selector(here, [], [], shipped).choose(LOW, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("shipped", RING)
    assert decision.steps[-1] == "shipped: 2 of dense"
    measured = stored(tmp_path / "own.db", [(HIGH, DENSE, MATH, ok(1.0))])
    assert Selector(here, measured, [], shipped).choose(LOW, [DENSE], PLENTY).source == "neighbour"
