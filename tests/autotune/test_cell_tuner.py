"""What the coordinator does between measurements; a stand-in measures, the database is real."""

import io
from dataclasses import replace

import optuna
import planted
import pytest
import torch
from rich.console import Console
from stand_in import Recorder, StandIn

from autotune.cells import Workload
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.memory_limit import MEMORY_SHARE, memory_limit
from autotune.progress import Progress
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError, PatternError, ProblemError
from autotune.strategies.pattern import Dense
from autotune.strategies.space import Choice, Space
from autotune.studies import open_storage
from autotune.tuning import choose_strategies, tune

WORKLOAD = Workload(lengths=(64,), patterns=("dense",), heads=2, head_dim=16)
FIRST, SECOND = (Config.of("correct", variant=variant) for variant in (0, 1))
ZEROS = Config.of("zeros")


class Refuses(planted.Planted):
    name = "refuses"

    def unsupported(self, problem, pattern):
        return "never does anything"


@pytest.fixture(autouse=True)
def measure(monkeypatch):
    """Replace the worker, and the strategies by a few planted ones."""
    strategies = {s.name: s for s in (planted.CORRECT, planted.Zeros(), Refuses())}
    monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
    monkeypatch.setattr("autotune.tuning.Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr(StandIn, "contests", [])
    monkeypatch.setattr(StandIn, "races", {0: 2.0, 1: 3.0})
    monkeypatch.setattr(StandIn, "answers", {"zeros": Measurement(status=Status.WRONG_RESULT, reason="all zeros")})
    return StandIn


@pytest.fixture
def db(empty_database):
    return empty_database


def run(db, workload=WORKLOAD, **options):
    options.setdefault("observer", Recorder())
    return tune(workload, device="cpu", db=db, **options)


def stored(db):
    with Store.open(db, read_only=True) as store:
        return [(record.config, record.measurement) for record in store.records()]


def searched(db):
    """What is stored but for the times of races."""
    return [(config, measurement) for config, measurement in stored(db) if measurement.race is None]


def choice(db):
    with Store.open(db, read_only=True) as store:
        choices = store.choices(problem=WORKLOAD.cells(torch.device("cpu"))[0].problem, pattern=Dense())
    return choices[0] if choices else None


def test_everything_supported_is_tried_stored_and_decided(db):
    recorder = Recorder()
    (result,) = run(db, observer=recorder)
    assert {config for config, _ in stored(db)} == {FIRST, SECOND, ZEROS}
    assert dict(stored(db)) == dict(result.tried) == dict(recorder.finished)
    assert (result.best, result.measured) == (FIRST, 3)
    assert result.measurement.times_ms == (2.0, 2.0)
    decision = choice(db)
    assert (decision.config, decision.candidates) == (FIRST, 3)
    assert recorder.planned == [3]


def test_each_candidate_is_announced_and_each_measurement_stored_before_the_next_begins(db):
    seen = []
    recorder = Recorder(after=lambda config, measurement: seen.append(stored(db)))
    run(db, observer=recorder)
    assert [len(rows) for rows in seen] == [1, 2, 3, 5, 5]  # the times of a race are stored together
    assert seen[-1] == recorder.finished
    tries = [config for kind, config, *_ in recorder.events if kind == "try"]
    assert recorder.events == [
        ("cell", 1, 1),
        *[(kind, config) for config in tries for kind in ("try", "done")],
        ("final", 2),
        ("done", FIRST),
        ("done", SECOND),
        ("decided", FIRST),
    ]


@pytest.mark.parametrize(("variant", "winner"), [(0, FIRST), (1, SECOND)])
def test_the_final_race_decides_and_its_times_are_stored_beside_the_first_ones(db, measure, variant, winner):
    measure.answers["correct"] = Measurement(status=Status.OK, times_ms=(1.0,), peak_memory_bytes=10)
    measure.races |= {variant: 3.0, 1 - variant: 4.0}
    (result,) = run(db)
    assert result.best == choice(db).config == winner
    assert result.measurement.times_ms == (3.0, 3.0)
    assert sorted(m.times_ms for c, m in stored(db) if c == winner) == [(1.0,), (3.0, 3.0)]
    assert choice(db).margin == pytest.approx(1 / 3)


def test_times_of_a_final_are_stored_as_those_of_one_race(db, measure):
    measure.races |= {0: 3.0, 1: 4.0}
    run(db)
    races = [measurement.race for _, measurement in stored(db) if measurement.status is Status.OK]
    assert len(races) == 4
    assert races[:2] == [None, None]
    assert races[2] == races[3] is not None


def test_the_prediction_is_stored_beside_the_measurement(db):
    run(db)
    assert {measurement.predicted_memory_bytes for _, measurement in stored(db)} == {64 * 2 * 16 * 4}


def test_a_second_run_measures_nothing_and_chooses_the_same(db, measure):
    (first,) = run(db)
    before, asked = stored(db), len(measure.asked)
    recorder = Recorder()
    (again,) = run(db, observer=recorder)
    assert (again.best, again.measured, recorder.planned, recorder.finished) == (first.best, 0, [0], [])
    assert len(measure.asked) == asked
    assert stored(db) == before


@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interruption_keeps_what_was_measured_and_decides_and_a_rerun_goes_on(db, stop_after):
    def interrupt(config, measurement):
        if len(stored(db)) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(db, observer=Recorder(after=interrupt))
    assert len(stored(db)) == stop_after
    assert choice(db).config == FIRST
    recorder = Recorder()
    (result,) = run(db, observer=recorder)
    assert result.measured == recorder.planned[0] == 3 - stop_after
    assert len(searched(db)) == 3


@pytest.mark.parametrize(("trials", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_trials_bound_the_configurations_of_a_cell_and_count_the_known_ones(db, trials, count):
    run(db, trials=trials)
    assert len(searched(db)) == count
    run(db, trials=trials)
    assert len(searched(db)) == count


def test_a_budget_is_shared_by_the_cells_and_one_that_is_spent_still_decides(db, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("autotune.tuning.time.monotonic", lambda: now[0])

    def pass_time(config, measurement):
        now[0] += 10.0

    workload = Workload(lengths=(64, 128), patterns=("dense",), heads=2, head_dim=16)
    results = run(db, workload, budget_s=15.0, observer=Recorder(after=pass_time))
    assert [result.measured for result in results] == [1, 1]
    assert choice(db) is not None


def test_over_the_memory_limit_is_skipped_with_the_rule_and_stored_once(db, measure):
    for _ in range(2):
        (result,) = run(db, memory_limit_bytes=8191)
        assert result.best is None
        rows = stored(db)
        assert [m.status for _, m in rows] == [Status.SKIPPED] * 3
        assert {m.reason for _, m in rows} == {"predicted peak memory 8.00 KiB (estimated) is over the limit, 8.00 KiB"}
    assert measure.asked == []
    assert choice(db) is None


def test_a_skip_is_looked_at_anew_under_a_larger_limit(db):
    run(db, memory_limit_bytes=8191)
    (result,) = run(db, memory_limit_bytes=8192)
    assert result.best in (FIRST, SECOND)
    assert result.measured == 3


def test_a_measured_peak_over_the_limit_is_not_chosen(db, measure):
    measure.answers["correct"] = Measurement(status=Status.OK, times_ms=(1.0,), peak_memory_bytes=8193)
    (result,) = run(db, memory_limit_bytes=8192)
    assert result.best is None
    assert choice(db) is None


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT])
def test_too_much_at_a_shorter_length_is_skipped_at_longer_ones(db, measure, status):
    measure.answers["zeros"] = Measurement(status=status, reason="too much")
    run(db, Workload(lengths=(256, 64, 128), patterns=("dense",), heads=2, head_dim=16))
    with Store.open(db) as store:
        zeros = [record for record in store.records() if record.config == ZEROS]
    assert [(r.problem.query_len, r.measurement.status) for r in zeros] == [
        (64, status),
        (128, Status.SKIPPED),
        (256, Status.SKIPPED),
    ]
    assert {r.measurement.reason for r in zeros[1:]} == {f"{status} already at length 64; --force tries again"}


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT, Status.CRASHED])
def test_force_tries_again_what_failed_and_what_would_be_skipped(db, measure, status):
    workload = Workload(lengths=(64, 128), patterns=("dense",), heads=2, head_dim=16)
    measure.answers["zeros"] = Measurement(status=status, reason="too much")
    run(db, workload, memory_limit_bytes=8192)  # the longer one is predicted over the limit
    asked = len(measure.asked)
    (again, *_) = run(db, workload, memory_limit_bytes=8192)
    assert (again.measured, len(measure.asked)) == (0, asked)
    measure.answers["zeros"] = Measurement(status=Status.OK, times_ms=(0.5,), peak_memory_bytes=10)
    short, long = run(db, workload, memory_limit_bytes=8192, force=True)
    assert {candidate.config for candidate in measure.asked[asked : asked + 1]} == {ZEROS}
    assert {m.status for result in (short, long) for m in result.tried.values()} == {Status.OK}
    assert len(measure.asked) == asked + 4


def test_the_time_left_is_told_before_each_candidate(db):
    recorder = Recorder()
    run(db, observer=recorder, budget_s=1000.0)
    assert len(recorder.left) == 3
    assert all(0 < left <= 1000 for left in recorder.left)


def test_the_second_length_begins_with_the_default_and_the_best_of_the_first(db, measure):
    many = [Config.of("many", variant=variant) for variant in range(30)]

    class Many(planted.Correct):
        name = "many"

        def space(self, problem, pattern):
            return Space(self.name, (Choice("variant", tuple(range(30))),))

    def answer(candidate):
        return Measurement(status=Status.OK, times_ms=(60.0 - candidate.config.integer("variant", 0),))

    measure.answers["many"] = answer
    measure.races |= {variant: 60.0 - variant for variant in range(30)}
    strategies = {"many": Many()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
        workload = Workload(lengths=(64,), patterns=("dense",), heads=2, head_dim=16)
        (first,) = run(db, workload, effort="exhaustive")
        assert first.best == many[-1]
        asked = len(measure.asked)
        run(db, replace(workload, lengths=(128,)), trials=6)
    assert [candidate.config for candidate in measure.asked[asked:]] == [many[0], *reversed(many[-5:])]


def test_measurements_of_another_environment_are_not_known_here(db, monkeypatch):
    run(db)
    elsewhere = environment_of(torch.device("cpu"))
    elsewhere = type(elsewhere)(
        **{**{f: getattr(elsewhere, f) for f in elsewhere.__dataclass_fields__}, "torch_version": "9.9"}
    )
    monkeypatch.setattr("autotune.tuning.environment_of", lambda device: elsewhere)
    (result,) = run(db)
    assert result.measured == 3


def test_a_candidate_far_slower_than_the_best_is_dropped_by_the_efforts_factor(db, measure):
    run(db, effort="quick")
    assert [c.drop_over_ms for c in measure.asked[:2]] == [None, 2.0 * 1.5]
    assert {c.timing_budget_s for c in measure.asked} == {0.5}


def test_a_strategy_by_name_is_the_only_one_tried(db):
    (result,) = run(db, strategies=["zeros"])
    assert list(result.tried) == [ZEROS]
    assert result.best is None


def test_a_cell_no_strategy_supports_stores_each_reason(db):
    (result,) = run(db, strategies=["refuses"])
    (measurement,) = result.tried.values()
    assert (measurement.status, measurement.reason) == ("unsupported", "never does anything")
    assert result.best is None


def test_a_cell_no_strategy_supports_is_shown_with_each_reason_whenever_it_is_tuned(db):
    for _ in range(2):
        screen = io.StringIO()
        with Progress(Console(file=screen)) as progress:
            run(db, strategies=["refuses"], observer=progress)
        assert [" ".join(line.split()) for line in screen.getvalue().splitlines()[-3:]] == [
            "[1/1] dense, 64 tokens on cpu: nothing new to measure",
            "refuses() unsupported: never does anything",
            "best: nothing ran; see the reasons above, or `autotune report`",
        ]
    assert len(stored(db)) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategies": ["magic"]}, ConfigError, "strategy is 'magic', but must be one of correct, zeros, refuses"),
        ({"workload": Workload(patterns=("magic",))}, PatternError, "pattern is 'magic', but must be one of dense"),
        (
            {"workload": Workload(lengths=(0,))},
            ProblemError,
            "query_len is 0, but must be a whole number of at least 1",
        ),
    ],
)
def test_bad_arguments_are_refused_before_a_database_is_made(tmp_path, options, error, message):
    db = tmp_path / "t.db"
    with pytest.raises(error, match=message):
        run(db, **options)
    assert not db.exists()


def test_all_strategies_are_chosen_in_the_catalogs_order(monkeypatch):
    monkeypatch.setattr("autotune.tuning.STRATEGIES", STRATEGIES)
    assert list(choose_strategies(None)) == list(STRATEGIES)
    assert list(choose_strategies(["ring", "sdpa"])) == ["sdpa", "ring"]


def test_an_interrupted_final_is_held_by_the_next_run(db, measure):
    measure.races |= {0: 4.0, 1: 3.0}

    class Impatient(Recorder):
        def final_started(self, finalists):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(db, observer=Impatient())
    assert choice(db).config == FIRST  # by the medians of the search
    for planned in ([["final", 2]], []):
        recorder = Recorder()
        (result,) = run(db, observer=recorder)
        assert (result.best, choice(db).config) == (SECOND, SECOND)
        assert [list(event) for event in recorder.events if event[0] in ("try", "final")] == planned


def test_a_cell_that_was_killed_before_its_decision_is_raced_and_decided_by_the_next_run(db, monkeypatch):
    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as patch:
        for name in ("decide", "add_race"):
            patch.setattr(f"autotune.db.store.Store.{name}", killed)
        with pytest.raises(SystemExit):
            run(db)
    assert (len(stored(db)), choice(db)) == (3, None)
    (result,) = run(db)
    assert (result.measured, choice(db).config) == (0, FIRST)
    assert len({m.race for _, m in stored(db) if m.race}) == 1


def test_a_budget_too_short_for_the_final_leaves_it_to_a_longer_one(db, measure, monkeypatch):
    measure.races |= {0: 4.0, 1: 3.0}
    with monkeypatch.context() as patch:
        patch.setattr("autotune.final.LEAST_ROUNDS", 1e9)
        run(db, observer=(recorder := Recorder()))
    assert [event for event in recorder.events if event[0] == "left out"] == [("left out", True)]
    assert (measure.contests, choice(db).config) == ([], FIRST)
    (result,) = run(db)
    assert (len(measure.contests), result.best) == (1, SECOND)


def test_a_raced_decision_stands_until_something_that_ran_is_newer(db, measure):
    run(db, trials=2)
    assert (len(measure.contests), len(stored(db))) == (0, 2)
    run(db)
    run(db)
    assert len(measure.contests) == 1


def test_another_choice_of_strategies_decides_among_its_own(db, measure):
    assert run(db, strategies=["correct"])[0].best == FIRST
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
        measure.races |= dict.fromkeys(range(planted.VARIANTS), 9.0)
        (many,) = run(db)
        assert {config.strategy for config in (many.best, *[c.config for c in measure.contests[-1].candidates])} == {
            "many"
        }
    contests = len(measure.contests)
    (again,) = run(db, strategies=["correct"])
    assert (again.best, again.measured, len(measure.contests)) == (FIRST, 0, contests)


def test_what_is_known_outside_the_spaces_takes_no_trial_and_no_place_in_the_final(db, measure):
    with Store.open(db) as store:
        (cell,) = WORKLOAD.cells(torch.device("cpu"))
        arguments = store.begin_run("by hand"), environment_of(torch.device("cpu")), cell.problem, cell.pattern
        fast = Measurement(status=Status.OK, times_ms=(0.001,), peak_memory_bytes=1)
        for config in (Config.of("correct", variant=9), Config.of("gone", x=1)):
            store.add(*arguments, config, fast)
    (result,) = run(db, trials=2)
    assert (result.measured, result.best) == (2, FIRST)
    assert {candidate.config for contest in measure.contests for candidate in contest.candidates} <= {FIRST, SECOND}


def test_a_skip_by_the_same_rule_is_not_stored_and_nothing_is_raced_again(db, measure):
    measure.answers["zeros"] = Measurement(status=Status.OOM, reason="too much")
    workload = Workload(lengths=(64, 128), patterns=("dense",), heads=2, head_dim=16)
    run(db, workload)
    before, contests = stored(db), len(measure.contests)
    assert Status.SKIPPED in {m.status for _, m in before}
    for limit in (8192, 8200):  # now the longer ones are skipped for their memory, with other figures each time
        results = run(db, workload, memory_limit_bytes=limit)
        assert [result.measured for result in results] == [0, 0]
    assert len(stored(db)) == len(before) + 1  # another rule for one of them
    assert len(measure.contests) == contests


def test_force_begins_with_what_failed(db, measure):
    strategies = {"many": planted.Many()}
    failing = Config.of("many", variant=planted.VARIANTS - 1)

    def answer(candidate):
        failed = candidate.config == failing and len(measure.asked) <= planted.VARIANTS
        return Measurement(status=Status.CRASHED) if failed else Measurement(status=Status.OK, times_ms=(1.0,))

    measure.answers["many"] = answer
    measure.races |= dict.fromkeys(range(planted.VARIANTS), 1.0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
        with Store.open(db) as store:
            (cell,) = WORKLOAD.cells(torch.device("cpu"))
            arguments = store.begin_run("by hand"), environment_of(torch.device("cpu")), cell.problem, cell.pattern
            store.add(*arguments, failing, Measurement(status=Status.CRASHED, reason="by hand"))
            store.add(*arguments, Config.of("many", variant=0), Measurement(status=Status.OK, times_ms=(1.0,)))
        run(db, trials=2, force=True)
    assert [candidate.config for candidate in measure.asked] == [failing]


def test_a_search_leaves_no_trial_running(db):
    run(db, trials=1)
    with Store.open(db) as store:
        (study,) = optuna.get_all_study_names(open_storage(store))
        states = [trial.state.name for trial in optuna.load_study(study_name=study, storage=open_storage(store)).trials]
    assert states == ["COMPLETE"]


def test_an_interrupted_final_is_held_though_an_earlier_one_was_won_by_the_same(db, measure):
    class Impatient(Recorder):
        def final_started(self, finalists):
            raise KeyboardInterrupt

    measure.answers["many"] = lambda candidate: Measurement(status=Status.OK, times_ms=(2.0,), peak_memory_bytes=1)
    measure.races |= dict.fromkeys(range(planted.VARIANTS), 2.0) | {5: 1.0}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
        run(db, trials=3)
        winner = choice(db).config
        with pytest.raises(KeyboardInterrupt):
            run(db, observer=Impatient())
        assert choice(db).config == winner
        (result,) = run(db)
    assert (result.measured, result.best) == (0, Config.of("many", variant=5))
    assert len(measure.contests) == 2


class TestAFailedRace:
    """Of the finalists one or all end the race; each is then tried by itself."""

    @pytest.fixture(autouse=True)
    def many(self, monkeypatch, measure):
        monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
        monkeypatch.setattr(StandIn, "failing", set())
        self.variants = [Config.of("many", variant=variant) for variant in range(planted.VARIANTS)]
        measure.races |= {variant: 10.0 - variant / 10 for variant in range(planted.VARIANTS)}
        self.ends = {}  # what comes of a variant that is tried again

        def answer(candidate):
            variant = candidate.config.integer("variant", 0)
            ok = Measurement(status=Status.OK, times_ms=(10.0 - variant / 10,), peak_memory_bytes=10)
            return self.ends.get(variant, ok) if len(measure.asked) > planted.VARIANTS else ok

        measure.answers["many"] = answer

    def test_is_said_and_who_failed_is_stored_and_not_chosen(self, db, measure):
        crash = Measurement(status=Status.CRASHED, reason="killed by SIGSEGV during run", signal=11)
        measure.failing.add(7)
        self.ends[7] = crash
        recorder = Recorder()
        (result,) = run(db, observer=recorder)
        assert [event for event in recorder.events if event[0] in ("final", "failed")] == [
            ("final", 8),
            ("failed", 8),
            ("final", 7),
        ]
        assert result.best == choice(db).config == self.variants[6]
        found = [m for config, m in stored(db) if config == self.variants[7]]
        assert [(m.status, m.race) for m in found] == [(Status.OK, None), (Status.CRASHED, None)]

    def test_is_followed_by_races_of_fewer_if_all_run_by_themselves(self, db, measure):
        measure.failing.add(5)
        recorder = Recorder()
        (result,) = run(db, observer=recorder)
        finals = [event for event in recorder.events if event[0] in ("final", "failed")]
        assert finals == [("final", 8), ("failed", 8), ("final", 4), ("failed", 4), ("final", 2)]
        assert {candidate.config for candidate in measure.contests[-1].candidates} == {
            self.variants[0],
            self.variants[7],
        }
        assert result.best == self.variants[7]

    def test_leaves_the_medians_of_the_search_where_no_two_race(self, db, measure):
        measure.failing |= set(range(planted.VARIANTS))
        recorder = Recorder()
        (result,) = run(db, observer=recorder)
        assert recorder.events[-1] == ("decided", result.best)
        assert choice(db).config == result.best is not None
        assert {m.race for _, m in stored(db)} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0, but must be a whole number of at least 1"),
        ({"trials": -3}, "trials is -3, but must be a whole number of at least 1"),
        ({"trials": 2.5}, "trials is 2.5, but must be a whole number"),
        ({"effort": "heroic"}, "effort is 'heroic', but must be one of quick, standard, thorough, exhaustive"),
        ({"trials": 0, "reverify": True}, "trials is 0"),
    ],
)
def test_an_effort_that_there_is_not_is_refused_before_a_database_is_made(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "t.db", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_inputs_are_no_room_for_a_configuration(db, monkeypatch):
    (cell,) = WORKLOAD.cells(torch.device("cpu"))
    inputs, predicted = 3 * 8192, 8192
    free = [int((inputs + predicted) / MEMORY_SHARE) - 10]  # enough if the inputs were left out
    monkeypatch.setattr("autotune.memory_limit.free_memory_bytes", lambda device: free[0])
    assert run(db)[0].measured == 0
    free[0] += 20  # read anew for each cell
    assert run(db)[0].measured == 3
    assert memory_limit(cell, None) == predicted + 8
    assert memory_limit(cell, 5) == 5
    streamed = replace(cell, problem=replace(cell.problem, kv_home="host"))
    assert memory_limit(streamed, None) == predicted + 8 + cell.problem.kv_bytes
