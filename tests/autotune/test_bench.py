"""What a benchmark run does between measurements; a stand-in measures, the database is real."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_suite import (
    ALPHA,
    BETA,
    BYTES_PER_TOKEN,
    DELTA,
    GAMMA,
    SUITE,
    WINDOW,
    WORKLOAD,
    growing,
    implementation,
    install,
    suite,
    took,
)
from stand_in import RATES, Recorder

from autotune.bench import bench
from autotune.cells import Workload
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.strategies.config import Config
from autotune.strategies.errors import PatternError, ProblemError
from autotune.strategies.pattern import Dense
from autotune.strategies.suite import TUNED, Reference
from autotune.strategies.suite_extreme import EXTREME
from autotune.suite_run import Limits

from .records import failed, fill, ok

PLENTY = 1 << 50
EVERYTHING = [
    (64, Dense(), Config.of("correct", variant=0)),
    (64, Dense(), Config.of("correct", variant=64)),
    (64, WINDOW, Config.of("zeros")),
    (128, Dense(), Config.of("correct", variant=0)),
    (128, Dense(), Config.of("correct", variant=128)),
    (128, WINDOW, Config.of("zeros")),
]
DENSE = replace(WORKLOAD, patterns=("dense",))


class Watcher(Recorder):
    """Also keeps what it was told of the time left."""

    def __init__(self):
        super().__init__()
        self.left_s = []

    def time_left(self, seconds):
        self.left_s.append(seconds)


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def db(empty_database):
    return empty_database


def run(db, chosen=SUITE, workload=WORKLOAD, observer=None, **limits):
    limits.setdefault("memory_bytes", PLENTY)
    return bench(chosen, [workload], device="cpu", limits=Limits(**limits), db=db, observer=observer or Recorder())


def records(db):
    with Store.open(db, read_only=True) as store:
        return store.records()


def stored(db):
    return [(record.problem.kv_len, record.pattern, record.config) for record in records(db)]


def statuses(db, strategy="correct"):
    """(length, status) of every measurement of a strategy."""
    found = [record for record in records(db) if record.config.strategy == strategy]
    return [(record.problem.kv_len, record.measurement.status) for record in found]


def reasons(db):
    return [record.measurement.reason for record in records(db) if record.measurement.reason]


def rates(db):
    with Store.open(db, read_only=True) as store:
        return [(rate.dtype, rate.matmul_flops_per_s, rate.copy_bytes_per_s) for rate in store.rates()]


def test_each_implementation_is_measured_once_at_every_length_and_stored_under_its_configuration(db, worker):
    results = run(db)
    assert stored(db) == EVERYTHING
    assert len(worker.asked) == 6
    assert [(result.cell.problem.kv_len, result.cell.pattern, *result.tried) for result in results] == [
        (64, Dense(), *(config for length, pattern, config in EVERYTHING[:2])),
        (64, WINDOW, Config.of("zeros")),
        (128, Dense(), *(config for length, pattern, config in EVERYTHING[3:5])),
        (128, WINDOW, Config.of("zeros")),
    ]
    assert [result.best for result in results] == [EVERYTHING[index][2] for index in (0, 2, 3, 5)]


def test_the_shortest_length_comes_first_whatever_the_order_asked_for(db):
    run(db, workload=replace(WORKLOAD, lengths=(128, 64)))
    assert stored(db) == EVERYTHING


def test_each_is_announced_and_stored_with_its_prediction_before_the_next_begins(db):
    seen = []
    recorder = Recorder(after=lambda config, measurement: seen.append(len(records(db))))
    run(db, observer=recorder)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert recorder.planned == [2, 1, 2, 1]
    assert [config for kind, config, *_ in recorder.events if kind == "try"] == [config for *_, config in EVERYTHING]
    assert [config for config, _ in recorder.finished] == [config for *_, config in EVERYTHING]
    for record in records(db):
        assert record.measurement.predicted_memory_bytes == BYTES_PER_TOKEN * record.problem.kv_len


def test_a_second_run_measures_nothing_and_knows_the_same(db, worker):
    first = run(db)
    before, recorder = records(db), Recorder()
    again = run(db, observer=recorder)
    assert len(worker.asked) == 6
    assert (recorder.planned, recorder.finished) == ([0] * 4, [])
    assert records(db) == before
    assert [result.tried for result in again] == [result.tried for result in first]
    assert [result.measured for result in again] == [0] * 4


def test_failures_are_not_tried_again(db, worker):
    worker.answers["correct"] = failed(Status.CRASHED)
    for _ in range(2):
        results = run(db)
    assert len(worker.asked) == 6
    assert [result.best for result in results if result.cell.pattern == Dense()] == [None, None]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_run_keeps_what_was_measured_and_goes_on_afterwards(db, worker, stop_after, error):
    def interrupt(config, measurement):
        if len(worker.asked) == stop_after:
            raise error

    with pytest.raises(error):
        run(db, observer=Recorder(after=interrupt))
    assert stored(db) == EVERYTHING[:stop_after]
    run(db)
    assert stored(db) == EVERYTHING
    assert len(worker.asked) == 6


def test_an_interruption_during_a_measurement_costs_only_that_one(db, worker):
    def interrupt(candidate):
        raise KeyboardInterrupt

    worker.answers["zeros"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(db)
    assert stored(db) == EVERYTHING[:2]


def test_what_a_search_measured_under_the_same_configuration_is_known_and_the_rest_of_it_is_no_row(db, worker):
    problem = WORKLOAD.cells(torch.device("cpu"))[0].problem
    known, other = Config.of("correct", variant=0), Config.of("correct", variant=7)
    fill(db, [(problem, Dense(), known, ok(5.0)), (problem, Dense(), other, ok(1.0))])
    (result, *_) = run(db)
    assert set(result.tried) == {known, Config.of("correct", variant=64)}
    assert result.best != other
    assert known not in [candidate.config for candidate in worker.asked if candidate.problem == problem]


def test_measurements_of_another_environment_are_not_known_here(db, worker):
    problem = WORKLOAD.cells(torch.device("cpu"))[0].problem
    elsewhere = replace(environment_of(torch.device("cpu")), torch_version="9.9")
    fill(db, [(problem, Dense(), Config.of("correct", variant=0), ok(5.0))], environment=elsewhere)
    run(db)
    assert len(worker.asked) == 6


class TestRace:
    """The rows of one length, timed in turn."""

    def test_its_times_are_stored_beside_the_first_ones_and_count(self, db, worker):
        worker.races |= {0: 9.0, 64: 8.0}
        (result,) = run(db, workload=replace(DENSE, lengths=(64,)))
        times = [(record.config.integer("variant", 0), record.measurement.times_ms) for record in records(db)]
        assert times == [(0, (2.0,)), (64, (3.0,)), (0, (9.0, 9.0)), (64, (8.0, 8.0))]
        first, second, *raced = [record.measurement.race for record in records(db)]
        assert first is second is None
        assert len(set(raced)) == 1
        assert None not in raced
        assert result.best == Config.of("correct", variant=64)
        assert result.measurement.time_ms == 8.0

    def test_is_not_held_again_when_nothing_is_measured(self, db, worker):
        worker.races |= {0: 9.0, 64: 8.0}
        for _ in range(2):
            run(db, workload=replace(DENSE, lengths=(64,)))
        assert len(worker.contests) == 1

    @pytest.mark.parametrize("stop_after", [1, 2])
    def test_is_held_by_the_run_that_completes_a_length(self, db, worker, stop_after):
        def interrupt(config, measurement):
            if len(worker.asked) == stop_after:
                raise KeyboardInterrupt

        worker.races |= {0: 9.0, 64: 8.0}
        workload = replace(DENSE, lengths=(64,))
        with pytest.raises(KeyboardInterrupt):
            run(db, workload=workload, observer=Recorder(after=interrupt))
        assert worker.contests == []
        (result,) = run(db, workload=workload)
        assert len(worker.contests) == 1
        assert result.measurement.time_ms == 8.0

    def test_decides_what_an_observer_is_told_to_be_the_best(self, db, worker):
        worker.races |= {0: 9.0, 64: 8.0}
        recorder = Recorder()
        run(db, workload=replace(DENSE, lengths=(64,)), observer=recorder)
        assert recorder.events[-1] == ("decided", Config.of("correct", variant=64))

    def test_is_not_held_because_the_limit_of_a_skip_is_another_one(self, db, worker):
        worker.races |= {0: 9.0, 64: 8.0}
        chosen, workload = suite(ALPHA, BETA, GAMMA), replace(WORKLOAD, lengths=(64,))
        run(db, chosen, replace(workload, patterns=("dense",)))
        for limit in (1, 2):
            run(db, chosen, workload, memory_bytes=limit)
        assert statuses(db, "zeros") == [(64, Status.SKIPPED)]  # by the same rule
        assert len(worker.contests) == 1

    def test_leaves_out_what_failed_and_what_takes_too_long(self, db, worker):
        answers = {1: took(25_000.0), 2: took(1.0), 3: failed(Status.CRASHED), 4: took(29_000.0)}
        worker.answers["correct"] = lambda candidate: answers[candidate.config.integer("variant", 0)]
        rows = [implementation(str(n), lambda problem, n=n: Config.of("correct", variant=n)) for n in answers]
        run(db, suite(*rows), replace(DENSE, lengths=(64,)))
        (contest,) = worker.contests
        raced = [candidate.config.integer("variant", 0) for candidate in contest.candidates]
        assert raced == [2, 1]  # twice 25 s fits into a minute, and twice 29 s more does not

    def test_is_between_all_patterns_of_one_length_and_between_no_lengths(self, db, worker):
        run(db)
        lengths = [{candidate.problem.kv_len for candidate in contest.candidates} for contest in worker.contests]
        assert lengths == [{64}, {128}]
        assert [{candidate.pattern for candidate in contest.candidates} for contest in worker.contests] == [
            {Dense(), WINDOW}
        ] * 2


class TestReference:
    """Rows that are held against exact attention of another length."""

    LIMIT_S = 5.0  # exact attention takes 4.096 s at 4,096 tokens here, and four times as much at 8,192

    @pytest.fixture(autouse=True)
    def growing(self, monkeypatch, worker):
        """Both functions take 1 ms at 64 tokens, and every race two rounds of what was measured."""

        def race(self, contest):
            self.contests.append(contest)
            return [growing(1.0)(candidate).times_ms * 2 for candidate in contest.candidates]

        worker.answers |= {"correct": growing(1.0), "zeros": growing(1.0)}
        monkeypatch.setattr(worker, "race", race)

    @pytest.fixture
    def chosen(self):
        reference = Reference(implementation=ALPHA, call_s=self.LIMIT_S)
        return replace(suite(ALPHA, GAMMA), reference=reference, race_s=20.0)

    @staticmethod
    def raced(worker):
        return [[(each.problem.kv_len, each.config.strategy) for each in race.candidates] for race in worker.contests]

    def test_is_the_longest_exact_attention_within_the_limit_and_in_every_race(self, db, worker, chosen):
        run(db, chosen)
        assert self.raced(worker) == [
            [(4096, "correct"), (64, "correct"), (64, "zeros")],
            [(4096, "correct"), (128, "correct"), (128, "zeros")],
        ]
        assert [each.problem.kv_len for each in worker.asked] == [4096, 64, 64, 128, 128]  # 8,192 is predicted

    @pytest.mark.parametrize(("limit_s", "length"), [(3.0, 2048), (1.1e-3, 64), (70.0, 16384)])
    def test_is_looked_for_upwards_and_downwards(self, db, worker, chosen, limit_s, length):
        run(db, replace(chosen, reference=replace(chosen.reference, call_s=limit_s), race_s=1e6))
        assert {(length, "correct")} <= {entry for race in self.raced(worker) for entry in race}
        assert all(race[0] == (length, "correct") for race in self.raced(worker))

    def test_is_within_the_time_limit_too(self, db, worker, chosen):
        run(db, chosen, call_s=1.5)
        assert {race[0] for race in self.raced(worker)} == {(2048, "correct")}

    def test_times_of_one_race_are_stored_as_such(self, db, chosen):
        run(db, chosen)
        races = {}
        for record in records(db):
            if record.measurement.race:
                races.setdefault(record.measurement.race, []).append(
                    (record.problem.kv_len, record.measurement.times_ms)
                )
        first, second = races.values()
        assert first == [(4096, (4096.0, 4096.0)), (64, (1.0, 1.0)), (64, (1.0, 1.0))]
        assert second == [(4096, (4096.0, 4096.0)), (128, (4.0, 4.0)), (128, (4.0, 4.0))]

    def test_nothing_is_raced_again_when_a_run_resumes(self, db, worker, chosen):
        for _ in range(2):
            run(db, chosen)
        run(db, chosen.only(["Gamma"]))
        assert (len(worker.contests), len(worker.asked)) == (2, 5)

    def test_a_race_that_was_slower_is_no_reason_for_another_reference(self, db, worker, chosen, monkeypatch):
        def slower(self, contest):
            self.contests.append(contest)
            return [(9e3, 9e3) for _ in contest.candidates]

        monkeypatch.setattr(worker, "race", slower)
        for _ in range(2):
            run(db, chosen)
        assert len(worker.contests) == 2
        assert {race[0] for race in self.raced(worker)} == {(4096, "correct")}

    def test_serves_rows_without_the_exact_one_and_alone_is_no_race(self, db, worker, chosen):
        run(db, chosen.only(["Gamma"]), replace(WORKLOAD, lengths=(64,)))
        assert self.raced(worker) == [[(4096, "correct"), (64, "zeros")]]
        run(db, chosen.only(["Alpha"]), replace(WORKLOAD, lengths=(4096,)))
        assert len(worker.contests) == 1

    def test_who_would_take_too_long_is_left_out_and_never_the_reference(self, db, worker, chosen):
        run(db, replace(chosen, race_s=8.2), replace(WORKLOAD, lengths=(256,)))  # 16 ms each, twice, beside 8.192 s
        assert self.raced(worker) == []
        run(db, replace(chosen, race_s=8.23), replace(WORKLOAD, lengths=(256,)))
        assert self.raced(worker) == [[(4096, "correct"), (256, "correct")]]

    def test_each_direction_has_its_own(self, db, worker, chosen):
        both = [replace(WORKLOAD, lengths=(64,), direction=each) for each in ("training", "forward")]
        bench(chosen, both, device="cpu", limits=Limits(memory_bytes=PLENTY), db=db)
        found = [{each.problem.direction for each in race.candidates} for race in worker.contests]
        assert found == [{"forward"}, {"training"}]

    def test_without_exact_attention_the_rows_race_among_themselves(self, db, worker, chosen):
        crashed = failed(Status.CRASHED)
        worker.answers["correct"] = lambda each: crashed if each.pattern == Dense() else growing(1.0)(each)
        other = implementation("Other", lambda problem: Config.of("correct", variant=1), WINDOW)
        rows = (*chosen.implementations, other)
        run(db, replace(chosen, implementations=rows), replace(WORKLOAD, lengths=(64,)))
        assert self.raced(worker) == [[(64, "zeros"), (64, "correct")]]


def test_what_a_search_decided_on_is_measured_where_the_suite_has_a_place_for_it(db, worker):
    problem = WORKLOAD.cells(torch.device("cpu"))[0].problem
    config = Config.of("correct", variant=7)
    tuned = replace(implementation(TUNED, None), config=lambda problem, pattern: None)
    workload = replace(DENSE, lengths=(64,))
    assert run(db, suite(tuned), workload) == []
    (number,) = fill(db, [(problem, Dense(), config, failed(Status.SKIPPED))])
    with Store.open(db) as store:
        store.decide(environment_of(torch.device("cpu")), problem, Dense(), config, number, None, 1)
    (result,) = run(db, suite(ALPHA, tuned), workload)
    assert list(result.tried) == [Config.of("correct", variant=0), config]
    assert result.tried[config].status is Status.OK


def test_over_the_memory_limit_is_skipped_with_the_predicted_figure(db, worker):
    run(db, suite(ALPHA), DENSE, memory_bytes=BYTES_PER_TOKEN * 64)
    assert statuses(db) == [(64, Status.OK), (128, Status.SKIPPED)]
    assert reasons(db) == ["predicted peak memory 16.00 KiB (estimated) is over the limit, 8.00 KiB"]
    assert len(worker.asked) == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_call_that_would_take_too_long_is_predicted_although_the_configuration_differs_by_length(db, worker, resumed):
    worker.answers["correct"] = growing(1000.0)
    if resumed:
        run(db, suite(BETA), replace(DENSE, lengths=(64,)))
    run(db, suite(BETA), replace(DENSE, lengths=(64, 128)), call_s=3.0)
    assert statuses(db) == [(64, Status.OK), (128, Status.SKIPPED)]
    assert reasons(db) == ["predicted 4 s a call, from length 64; the limit is 3 s"]


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT])
def test_what_was_too_much_at_a_shorter_length_is_skipped_at_every_longer_one(db, worker, status):
    worker.answers["correct"] = failed(status)
    run(db, suite(BETA), replace(DENSE, lengths=(64, 128, 256)))
    assert statuses(db) == [(64, status), (128, Status.SKIPPED), (256, Status.SKIPPED)]
    assert reasons(db)[1:] == [f"{status} already at length 64; --force tries again"] * 2


def test_another_setting_predicts_nothing(db, worker):
    worker.answers["correct"] = growing(1000.0)
    run(db, suite(BETA), replace(DENSE, lengths=(64,), causal=True))
    run(db, suite(BETA), replace(DENSE, lengths=(128,)), call_s=3.0)
    assert statuses(db) == [(64, Status.OK), (128, Status.OK)]


def test_a_skip_is_stored_once_and_looked_at_anew_under_another_limit(db):
    for _ in range(2):
        run(db, suite(ALPHA), DENSE, memory_bytes=1)
    assert statuses(db) == [(64, Status.SKIPPED), (128, Status.SKIPPED)]
    run(db, suite(ALPHA), DENSE)
    assert statuses(db)[2:] == [(64, Status.OK), (128, Status.OK)]


def test_without_a_limit_memory_that_is_not_free_is_the_limit_and_never_below_nothing(db, monkeypatch):
    (cell, *_) = DENSE.cells(torch.device("cpu"))
    for free, limit in ((100_000, 80_000 - 3 * 8192), (1000, 0)):
        monkeypatch.setattr("autotune.memory_limit.free_memory_bytes", lambda device, free=free: free)
        assert Limits().memory_for(cell) == limit
    run(db, suite(ALPHA), DENSE, memory_bytes=None)
    assert reasons(db)[0] == "predicted peak memory 8.00 KiB (estimated) is over the limit, 0 B"


class TestForce:
    """What ``force`` runs again, and what it does not."""

    def test_runs_what_was_skipped(self, db, worker):
        run(db, suite(ALPHA), DENSE, memory_bytes=1)
        run(db, suite(ALPHA), DENSE, memory_bytes=1, force=True)
        assert statuses(db)[2:] == [(64, Status.OK), (128, Status.OK)]

    def test_runs_what_is_predicted_to_take_too_long(self, db, worker):
        worker.answers["correct"] = growing(1000.0)
        run(db, suite(ALPHA), DENSE, call_s=3.0, force=True)
        assert statuses(db) == [(64, Status.OK), (128, Status.OK)]

    def test_runs_again_what_failed_and_not_what_is_ok(self, db, worker):
        worker.answers["zeros"] = failed(Status.CRASHED)
        run(db)
        worker.answers["zeros"] = took(4.0)
        results = run(db, force=True)
        assert [candidate.config.strategy for candidate in worker.asked[6:]] == ["zeros", "zeros"]
        assert results[1].measurement.times_ms == (4.0,)

    def test_does_not_run_what_is_unsupported(self, db, worker):
        for _ in range(2):
            run(db, suite(DELTA), DENSE, force=True)
        assert worker.asked == []
        assert statuses(db, "refuses") == [(64, Status.UNSUPPORTED), (128, Status.UNSUPPORTED)]

    def test_waits_for_a_call_however_long_it_takes(self):
        assert Limits(force=True).deadlines.run_s == float("inf")
        assert 3 * 5.0 < Limits(call_s=5.0).deadlines.run_s < float("inf")


def test_what_an_implementation_cannot_do_is_a_row_with_the_reason(db, worker):
    results = run(db, suite(ALPHA, DELTA), DENSE)
    assert statuses(db, "refuses") == [(64, Status.UNSUPPORTED), (128, Status.UNSUPPORTED)]
    assert reasons(db) == ["never does anything"] * 2
    assert [len(result.tried) for result in results] == [2, 2]
    assert len(worker.asked) == 2


def test_what_would_break_the_promise_of_a_name_is_unsupported_even_if_forced(db):
    chosen = suite(replace(ALPHA, refusal=lambda problem: "too short for it" if problem.kv_len < 100 else ""))
    for force in (False, True):
        run(db, chosen, DENSE, force=force)
    assert statuses(db) == [(64, Status.UNSUPPORTED), (128, Status.OK)]
    assert reasons(db) == ["too short for it"]


class TestPeak:
    """What is held against the device's fastest matrix product."""

    @pytest.fixture(autouse=True)
    def slow(self, monkeypatch, worker):
        """At 64 tokens no call takes less than 1 s here, and at 128 none less than 4 s."""
        rates = replace(RATES, matmul_flops_per_s=Dense().flops(DENSE.cells(torch.device("cpu"))[0].problem))
        monkeypatch.setattr(worker, "rates", lambda self, task: rates)

    def test_a_cell_that_takes_too_long_even_at_the_peak_is_skipped_before_anything_is_known_of_it(self, db, worker):
        worker.answers["correct"] = growing(2000.0)
        run(db, suite(ALPHA), replace(DENSE, lengths=(128,)), call_s=3.0)
        assert statuses(db) == [(128, Status.SKIPPED)]
        assert reasons(db) == ["predicted 4 s a call or more, at the device's matmul rate; the limit is 3 s"]

    def test_a_measurement_above_the_peak_is_a_wrong_result_and_is_not_the_best(self, db, worker):
        worker.answers["correct"] = lambda candidate: took(1.0 if candidate.config.integer("variant", 0) else 2000.0)
        (result,) = run(db, suite(ALPHA, BETA), replace(DENSE, lengths=(64,)))
        assert statuses(db) == [(64, Status.OK), (64, Status.WRONG_RESULT)]
        assert "above the device's measured peak" in reasons(db)[0]
        assert result.best == Config.of("correct", variant=0)

    def test_times_above_the_peak_in_a_race_are_a_wrong_result(self, db, worker):
        worker.answers["correct"] = took(2000.0)
        worker.races |= {0: 1.0, 64: 3000.0}
        (result,) = run(db, suite(ALPHA, BETA), replace(DENSE, lengths=(64,)))
        assert [measurement.status for measurement in result.tried.values()] == [Status.WRONG_RESULT, Status.OK]
        assert result.best == Config.of("correct", variant=64)


class TestRates:
    """The device's rates are asked for once a run, where there is anything to hold against them."""

    def test_are_stored_once_a_run_that_measures(self, db, worker):
        for length in (64, 128):
            run(db, workload=replace(WORKLOAD, lengths=(length,)))
        assert rates(db) == [("float32", RATES.matmul_flops_per_s, RATES.copy_bytes_per_s)] * 2
        assert worker.asked_for_rates[0].threads == environment_of(torch.device("cpu")).threads

    def test_are_not_measured_when_nothing_else_is(self, db, worker):
        run(db, suite(ALPHA, DELTA), DENSE)
        run(db, suite(ALPHA, DELTA), DENSE)
        assert len(worker.asked_for_rates) == 1

    def test_are_not_measured_when_everything_is_skipped(self, db, worker):
        run(db, memory_bytes=1)
        assert rates(db) == []

    def test_may_be_missing(self, db, worker, monkeypatch):
        monkeypatch.setattr(worker, "rates", lambda self, task: None)
        run(db)
        assert rates(db) == []
        assert stored(db) == EVERYTHING


class TestTimeLeft:
    """What an observer is told before each measurement."""

    def told(self, db, **options):
        watcher = Watcher()
        run(db, observer=watcher, **options)
        return watcher.left_s

    def test_is_unknown_until_every_implementation_was_timed_and_then_goes_down(self, db, worker):
        worker.answers |= {"correct": growing(1000.0), "zeros": growing(100.0)}
        left_s = self.told(db, workload=replace(WORKLOAD, lengths=(64, 128, 256)))
        assert left_s[:3] == [None] * 3
        assert len(left_s) == 9
        assert left_s[3:] == sorted(left_s[3:], reverse=True)
        assert left_s[-1] < left_s[3]

    def test_is_about_what_the_rest_takes(self, db, worker):
        worker.answers["correct"] = growing(10_000.0)
        chosen, workload = suite(ALPHA), replace(DENSE, lengths=(64, 128))
        assert self.told(db, chosen=chosen, workload=workload) == [None, 40.0]

    def test_is_known_from_the_start_where_a_shorter_length_is_stored(self, db, worker):
        worker.answers["correct"] = growing(10_000.0)
        run(db, suite(ALPHA), replace(DENSE, lengths=(64,)))
        assert self.told(db, chosen=suite(ALPHA), workload=replace(DENSE, lengths=(128,))) == [40.0]

    def test_counts_nothing_for_what_will_not_run(self, db, worker):
        worker.answers["correct"] = growing(10_000.0)
        chosen, workload = suite(ALPHA, DELTA), replace(DENSE, lengths=(64, 128, 256))
        assert self.told(db, chosen=chosen, workload=workload, call_s=100.0) == [None, 40.0, 40.0, 0.0, 0.0, 0.0]


def test_patterns_that_the_suite_does_not_serve_are_left_out(db):
    workload = replace(WORKLOAD, patterns=("dense", "local_window", "dilated"), lengths=(64,))
    (result,) = run(db, workload=workload)
    assert result.cell.pattern == Dense()
    assert stored(db) == EVERYTHING[:2]
    assert run(db, suite(GAMMA), workload) == []


def test_any_length_will_do(db, worker):
    results = run(db, EXTREME, Workload(lengths=(1000, 100_000)))
    statuses = Counter(record.measurement.status for record in records(db))
    assert statuses == {Status.OK: 2 * 12 - 2, Status.UNSUPPORTED: 2}  # 1,000 tokens are too few for the windows
    assert len(worker.asked) == statuses[Status.OK]
    assert [result.cell.problem.kv_len for result in results] == [1000] * 4 + [100_000] * 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"lengths": (0,)}, ProblemError, "query_len is 0, but must be a whole number of at least 1"),
        ({"patterns": ("magic",)}, PatternError, "pattern is 'magic', but must be one of dense"),
    ],
)
def test_bad_arguments_are_refused_before_a_database_is_made(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "t.db", workload=replace(WORKLOAD, **changes))
    assert list(tmp_path.iterdir()) == []
