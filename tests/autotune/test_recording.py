"""A record as something to search: exactly its configurations, and answers drawn from its repeats."""

import random
from dataclasses import replace

import pytest
from recorded import CPU, bowl, planted

from autotune.candidate import Candidate, Race
from autotune.db.records import Measurement, Status
from autotune.recording import RecordedWorker, recordings_of, space_of
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.space import Choice, Space

from .records import failed, ok, stored

SPACE = Space(
    "ring",
    (
        Choice("chunk", (4, 1, 2)),
        Choice("compile", ("off", "default", "best")),
        Choice("dynamic", (False, True), when=("compile", ("default", "best"))),
        Choice("block", (0, 8), when=("chunk", (1, 4))),
    ),
    (lambda params: params["chunk"] != 2 or params["compile"] == "off",),
)
A, B, C = (Config.of("ring", chunk=chunk) for chunk in (1, 2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_the_space_of_recorded_configurations_holds_exactly_those_and_begins_with_the_first(seed):
    configs = list(SPACE)
    random.Random(seed).shuffle(configs)
    space = space_of("ring", configs)
    assert sorted(config.text for config in space) == sorted(config.text for config in configs)
    if {"dynamic", "block"} <= configs[0].values.keys():
        assert space.default == configs[0]


def test_conditions_are_read_off_the_record():
    assert {choice.name: choice.when for choice in space_of("ring", list(SPACE)).choices} == {
        "chunk": None,
        "compile": None,
        "dynamic": ("compile", ("default", "best")),
        "block": ("chunk", (4, 1)),
    }


def test_part_of_a_space_is_a_space_too():
    some = list(SPACE)[::3]
    assert set(space_of("ring", some)) == set(some)


def candidate(recording, config, **options):
    cell = recording.cell
    options = {"timing_budget_s": 1.0} | options
    return Candidate(
        device="cpu",
        problem=cell.problem,
        pattern=cell.pattern,
        strategy=recording.strategies[config.strategy],
        config=config,
        threads=1,
        growth_limit_bytes=0,
        **options,
    )


@pytest.fixture
def recording():
    return planted({A: 100.0, B: 110.0, C: 400.0})


def test_repeats_are_drawn_from_the_recorded_ones_as_many_as_the_budget_has_room_for(recording):
    worker = RecordedWorker(recording, seed=1)
    measured = worker.measure(candidate(recording, A))
    assert 9 <= len(measured.times_ms) <= 11
    assert set(measured.times_ms) <= set(recording.measured[A].times_ms)
    assert replace(measured, times_ms=()) == replace(recording.measured[A], times_ms=())
    assert worker.measure(candidate(recording, A)) != measured
    assert RecordedWorker(recording, seed=1).measure(candidate(recording, A)) == measured
    assert worker.asked == [A, A]


def test_a_slow_one_is_dropped_after_its_first_repeat(recording):
    dropped = RecordedWorker(recording, seed=1).measure(candidate(recording, C, drop_over_ms=200.0))
    assert len(dropped.times_ms) == 1


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT, Status.CRASHED])
def test_what_failed_fails_again(recording, status):
    failing = replace(recording, measured={**recording.measured, A: failed(status)})
    assert RecordedWorker(failing, seed=1).measure(candidate(failing, A)) == failed(status)


def test_rounds_of_those_who_were_raced_together_stay_together():
    rounds = tuple(float(2**number) for number in range(20))
    measured = {
        A: Measurement(status=Status.OK, times_ms=rounds),
        B: Measurement(status=Status.OK, times_ms=tuple(3 * ms for ms in rounds)),
    }
    recording = replace(planted(bowl()), measured=measured)
    contest = Race(candidates=(candidate(recording, A), candidate(recording, B)), rounds=30, budget_s=1e9)
    first, second = RecordedWorker(recording, seed=1).race(contest)
    assert [mine / theirs for mine, theirs in zip(second, first, strict=True)] == [3.0] * 30
    assert len(set(first)) > 10


def test_a_record_runs_nothing(recording):
    with pytest.raises(UnsupportedError, match="is a record, and cannot run"):
        recording.strategies["ring"].build(recording.cell.problem, recording.cell.pattern, A)


def test_the_latest_measurement_counts_the_first_order_stays_and_what_never_ran_is_left_out(tmp_path):
    cell, other = planted(bowl()).cell, planted(bowl(), length=64).cell
    entries = [(cell.problem, cell.pattern, config, ok(ms)) for config, ms in ((B, 2.0), (A, 1.0), (B, 3.0))]
    entries.append((other.problem, other.pattern, A, failed(Status.OOM)))
    (recording,) = recordings_of(stored(tmp_path / "t.db", entries))
    assert list(recording.measured.items()) == [(B, ok(3.0)), (A, ok(1.0))]
    assert (recording.optimum, recording.regret(B)) == (A, 2.0)
    assert recording.cell.device == CPU


def test_regret_is_by_rounds_where_they_were_run_in_turn():
    """Half of the rounds are slow for all; who missed them seems faster by its median, and is not."""
    pace = [1.0, 1.5] * 10
    both, missed, other = (Config.of("ring", chunk=chunk, block=0) for chunk in range(3))
    raced = {
        both: replace(ok(1.0), times_ms=tuple(pace), race="one"),
        missed: replace(ok(1.0), times_ms=tuple(1.1 * each for each in pace[:1]), race="one"),
        other: replace(ok(2.5), race=None),
    }
    recording = replace(planted(bowl()), measured=raced)
    assert recording.optimum == both
    assert recording.regret(both) == 0.0
    assert recording.regret(missed) == pytest.approx(0.1)
    assert recording.regret(other) > 1.0


def test_a_record_is_searched_wherever_its_keys_were():
    recording = planted(bowl())
    host = replace(recording.cell, problem=replace(recording.cell.problem, kv_home="host"))
    strategies = replace(recording, cell=host).strategies
    assert {strategy.refusal(host.problem, host.pattern) for strategy in strategies.values()} == {None}
