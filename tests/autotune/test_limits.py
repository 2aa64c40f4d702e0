"""How far each implementation comes; a stand-in measures, the database is real."""

from collections import Counter
from dataclasses import replace
from math import log2

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_suite import ALPHA, BETA, BYTES_PER_TOKEN, DELTA, GAMMA, SUITE, WORKLOAD, growing, install, suite, took
from stand_in import Recorder

from autotune.bench import bench
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.limits import RESOLUTION, find_limits, furthest
from autotune.strategies.errors import ConfigError
from autotune.suite_run import Limits

from .records import failed

PLENTY = 1 << 50
LENGTHS = st.integers(1, 1 << 24)


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def db(empty_database):
    return empty_database


def find(db, chosen=SUITE, observer=None, names=(), shortest=64, longest=4096, workload=WORKLOAD, **limits):
    limits.setdefault("memory_bytes", PLENTY)
    return find_limits(
        chosen,
        workload,
        device="cpu",
        limits=Limits(**limits),
        names=names,
        shortest=shortest,
        longest=longest,
        db=db,
        observer=observer,
    )


def found(db, *args, **options):
    """What is said of the only implementation."""
    (reach,) = find(db, *args, **options)
    return reach


@settings(max_examples=300, deadline=None, derandomize=True)
@given(LENGTHS, LENGTHS, LENGTHS)
def test_the_furthest_length_is_found_in_a_few_probes_and_none_is_out_of_range(threshold, shortest, longest):
    assume(shortest <= longest)
    probes = []

    def fits(length):
        probes.append(length)
        return length <= threshold

    reached, stopped_at = furthest(fits, shortest, longest)
    assert all(shortest <= probe <= longest for probe in probes)
    assert len(set(probes)) == len(probes) <= log2(longest / shortest) + 2 + log2(1 / RESOLUTION) + 1
    if threshold < shortest:
        assert (reached, stopped_at, probes) == (None, shortest, [shortest])
    elif threshold >= longest:
        assert (reached, stopped_at) == (longest, None)
    else:
        assert reached <= threshold < stopped_at
        assert {reached, stopped_at} <= set(probes)
        assert stopped_at - reached <= max(1, RESOLUTION * reached)


def test_the_longest_within_the_time_limit_is_found_without_running_what_is_predicted_to_be_too_slow(db, worker):
    worker.answers["correct"] = growing(4.0)  # 1 s at 1,011 tokens
    reach = found(db, suite(BETA), call_s=1.0)
    assert (reach.name, reach.seq_len, reach.stopped_at) == ("Beta", 960, 1024)
    assert reach.measurement.time_ms == pytest.approx(900.0)
    assert reach.reason == "skipped: predicted 1.02 s a call, from length 512; the limit is 1 s"
    assert [candidate.problem.kv_len for candidate in worker.asked] == [64, 128, 256, 512, 768, 896, 960]


def test_what_takes_longer_than_predicted_is_run_and_then_beyond_the_limit(db, worker):
    worker.answers["correct"] = lambda candidate: took(1.0 if candidate.problem.kv_len < 600 else 1500.0)
    reach = found(db, suite(ALPHA), call_s=1.0)
    assert reach.seq_len < 600 <= reach.stopped_at
    assert reach.reason == "takes 1.5 s; the limit is 1 s"


def test_the_longest_within_the_memory_limit_is_found_by_the_prediction(db, worker):
    reach = found(db, suite(ALPHA), memory_bytes=BYTES_PER_TOKEN * 1000)
    assert (reach.seq_len, reach.stopped_at) == (960, 1024)
    assert reach.reason == "skipped: predicted peak memory 128.00 KiB (estimated) is over the limit, 125.00 KiB"
    assert max(candidate.problem.kv_len for candidate in worker.asked) == 960


def test_a_measured_peak_counts_where_the_prediction_was_too_low(db, worker):
    worker.answers["correct"] = lambda candidate: took(1.0, peak_bytes=2 * BYTES_PER_TOKEN * candidate.problem.kv_len)
    reach = found(db, suite(ALPHA), memory_bytes=BYTES_PER_TOKEN * 1000)
    assert (reach.seq_len, reach.stopped_at) == (480, 512)
    assert reach.reason == "takes 128.00 KiB; the limit is 125.00 KiB"
    assert reach.measurement.peak_memory_bytes == 2 * BYTES_PER_TOKEN * 480


@pytest.mark.parametrize("longest", [64, 100, 4096])
def test_without_a_limit_in_reach_the_longest_length_is_reached(db, longest):
    reach = found(db, suite(ALPHA), longest=longest)
    assert (reach.seq_len, reach.stopped_at) == (longest, None)
    assert reach.reason == f"{longest:,} tokens are the longest that were tried"


def test_what_fails_at_the_shortest_length_reaches_nothing(db, worker):
    worker.answers["correct"] = failed(Status.CRASHED)
    reach = found(db, suite(ALPHA))
    assert (reach.seq_len, reach.measurement, reach.stopped_at) == (None, None, 64)
    assert reach.reason == "crashed: planted crashed"
    assert len(worker.asked) == 1


def test_what_is_unsupported_reaches_nothing_and_says_why(db):
    reach = found(db, suite(DELTA))
    assert (reach.seq_len, reach.reason) == (None, "unsupported: never does anything")


def test_a_wrong_result_is_a_limit(db, worker):
    worker.answers["correct"] = lambda candidate: (
        took(1.0) if candidate.problem.kv_len < 200 else failed(Status.WRONG_RESULT)
    )
    reach = found(db, suite(ALPHA))
    assert reach.seq_len < 200 <= reach.stopped_at
    assert reach.reason == "wrong_result: planted wrong_result"


def test_nothing_is_measured_twice_in_a_run_or_a_later_one(db, worker):
    worker.answers |= {"correct": growing(4.0), "zeros": growing(4.0)}
    first = list(find(db, call_s=1.0))
    asked = Counter((candidate.problem, candidate.pattern, candidate.config) for candidate in worker.asked)
    assert set(asked.values()) == {1}
    again = list(find(db, call_s=1.0))
    assert again == first
    assert len(worker.asked) == len(asked)


def test_what_a_benchmark_measured_is_known(db, worker):
    bench(suite(ALPHA), [replace(WORKLOAD, patterns=("dense",))], device="cpu", db=db)
    assert found(db, suite(ALPHA), longest=128).seq_len == 128
    assert len(worker.asked) == 2


def test_the_rates_that_times_are_held_against_are_measured_once(db, worker):
    list(find(db, longest=64))
    assert len(worker.asked_for_rates) == 1


def test_every_implementation_is_told_of_in_turn_and_those_of_other_patterns_are_left_out(db):
    assert [reach.name for reach in find(db, longest=64)] == ["Alpha", "Beta", "Gamma"]
    dense = replace(WORKLOAD, patterns=("dense",))
    assert [reach.name for reach in find(db, suite(GAMMA, ALPHA), longest=64, workload=dense)] == ["Alpha"]


def test_named_implementations_are_the_only_ones_looked_at(db, worker):
    assert [reach.name for reach in find(db, names=("Gamma", "Alpha"), longest=64)] == ["Alpha", "Gamma"]
    assert len(worker.asked) == 2


def test_an_observer_is_told_which_implementation_is_where(db):
    recorder = Recorder()
    list(find(db, suite(ALPHA, BETA), recorder, longest=128))
    assert [event for event in recorder.events if event[0] == "cell"] == [("cell", 1, 2)] * 2 + [("cell", 2, 2)] * 2
    assert len(recorder.finished) == 4


def test_what_came_before_an_interruption_is_there_and_is_not_measured_again(db, worker):
    worker.answers["zeros"] = interrupt
    reaches = find(db, longest=128)
    assert [next(reaches).name, next(reaches).name] == ["Alpha", "Beta"]
    with pytest.raises(KeyboardInterrupt):
        next(reaches)
    with Store.open(db) as store:
        assert len(store.records()) == 4
    worker.answers["zeros"] = took(1.0)
    assert [reach.seq_len for reach in find(db, longest=128)] == [128] * 3
    assert len(worker.asked) == 4 + 1 + 2


def interrupt(candidate):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("Omega",)}, "implementation is 'Omega', but must be one of Alpha, Beta, Gamma"),
        ({"shortest": 128, "longest": 64}, "the shortest length is 128, but must be from 1 to the longest, 64"),
        ({"shortest": 0}, "the shortest length is 0, but must be from 1"),
    ],
)
def test_bad_arguments_are_refused_before_a_database_is_made(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        list(find(tmp_path / "t.db", **options))
    assert list(tmp_path.iterdir()) == []
