"""The search over a real study: every configuration once, the defaults first, and again where it left off."""

import itertools
import math

import pytest

from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.search import STARTUP, Search
from autotune.strategies.config import Config
from autotune.strategies.space import Choice, Space
from autotune.studies import open_storage

SPACES = {
    "ring": Space(
        "ring",
        (
            Choice("chunk", (4, 1, 2)),
            Choice("compile", ("off", "default")),
            Choice("dynamic", (False, True), when=("compile", ("default",))),
        ),
        (lambda params: params["chunk"] != 2 or params["compile"] == "off",),
    ),
    "plain": Space("plain"),
    "sdpa": Space("sdpa", (Choice("backend", ("auto", "math")),)),
}
ALL = [config for space in SPACES.values() for config in space]
DEFAULTS = [space.default for space in SPACES.values()]
LIMIT = 1000


def measured(ms=1.0, peak=1, status=Status.OK):
    return Measurement(status=status, times_ms=(ms,) if status is Status.OK else (), peak_memory_bytes=peak)


@pytest.fixture
def store(empty_database):
    with Store.open(empty_database) as store:
        yield store


@pytest.fixture
def search(store):
    def start(known=None, spaces=SPACES, **options):
        return Search(open_storage(store), "cell", spaces, known or {}, LIMIT, **options)

    return start


def answered(search, count=None, answer=measured):
    """Ask for some configurations, or all, and answer each."""
    asked = []
    for ask in itertools.islice(search.asks(), count):
        asked.append(ask.config)
        search.tell(ask, answer())
    return asked


def states(search):
    return [trial.state.name for trial in search._study.trials]


def test_the_size_counts_what_the_constraints_allow(search):
    assert search().size == len(ALL) == len(set(ALL)) == 10


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("status", [Status.OK, Status.CRASHED])
def test_every_configuration_is_asked_once_and_the_defaults_first(search, seed, status):
    asked = answered(search(seed=seed), answer=lambda: measured(status=status))
    assert asked[: len(DEFAULTS)] == DEFAULTS
    assert len(asked) == len(set(asked))
    assert set(asked) == set(ALL)


def test_what_is_known_is_never_asked(search):
    known = {DEFAULTS[0]: measured(2.0), ALL[3]: measured(status=Status.OOM)}
    assert set(answered(search(known))) == set(ALL) - set(known)


def test_nothing_is_asked_when_all_is_known(search):
    assert answered(search({config: measured() for config in ALL})) == []


def test_a_search_goes_on_where_an_earlier_one_stopped(search):
    answers = {}
    first = search()
    for ask in itertools.islice(first.asks(), 4):
        answers[ask.config] = measured()
        first.tell(ask, answers[ask.config])
    rest = answered(search(answers))
    assert set(rest) == set(ALL) - set(answers)
    assert len(rest) == len(ALL) - 4


def test_a_configuration_asked_and_not_answered_is_asked_again(search):
    interrupted = next(search().asks()).config
    assert interrupted == DEFAULTS[0]
    assert set(answered(search())) == set(ALL)


def test_imported_measurements_are_told_to_the_study_once(search):
    known = {config: measured(float(number + 1)) for number, config in enumerate(ALL[:6])}
    first = search(known)
    answered(first)
    told = {trial.user_attrs.get("config") for trial in first._study.trials if trial.state.name == "COMPLETE"}
    assert told == {config.text for config in ALL}
    everything = dict.fromkeys(ALL, measured())
    before = len(first._study.trials)
    again = search(everything)
    answered(again)
    assert len([state for state in states(again)[before:] if state == "COMPLETE"]) == 0


def test_known_configurations_of_strategies_left_out_do_not_disturb(search):
    only = {"sdpa": SPACES["sdpa"]}
    asked = answered(search({ALL[0]: measured(), Config.of("gone", x=1): measured()}, spaces=only))
    assert set(asked) == set(SPACES["sdpa"])


def test_a_study_of_other_choices_is_another_study(search):
    answered(search())
    grown = {**SPACES, "sdpa": Space("sdpa", (Choice("backend", ("auto", "math", "flash")),))}
    assert len(answered(search(spaces=grown))) == len(ALL) + 1


@pytest.mark.parametrize(
    ("answer", "state", "feasible"),
    [
        (measured(peak=LIMIT), "COMPLETE", True),
        (measured(peak=LIMIT + 1), "COMPLETE", False),
        (measured(status=Status.OOM), "PRUNED", False),
        (measured(status=Status.WRONG_RESULT), "PRUNED", False),
    ],
)
def test_the_memory_limit_and_failures_are_constraints(search, answer, state, feasible):
    running = search()
    running.tell(next(running.asks()), answer)
    (trial,) = [trial for trial in running._study.trials if trial.state.name == state]
    (violation,) = [value for key, value in trial.constraints.items() if key == "memory"]
    assert (violation <= 0) is feasible


def test_what_is_known_outside_the_spaces_counts_for_nothing(search):
    known = {config: measured() for config in ALL} | {
        Config.of("gone", x=1): measured(),
        Config.of("plain", y=1): measured(),
    }
    assert search(known).answered == len(ALL)
    assert search(known, spaces={"sdpa": SPACES["sdpa"]}).answered == 2


def test_what_is_known_is_told_to_the_study_without_being_asked(search):
    known = {config: measured(float(number + 1)) for number, config in enumerate(ALL[:8])}
    begun = search(known)
    assert states(begun) == ["COMPLETE"] * len(known)
    values = [trial.value for trial in begun._study.trials]
    assert values == pytest.approx([math.log(m.time_ms) for m in known.values()])
    told = [(trial.params["strategy"], trial.user_attrs["config"]) for trial in begun._study.trials]
    assert told == [(config.strategy, config.text) for config in ALL[:8]]
    answered(begun)
    assert states(search(dict.fromkeys(ALL, measured()))) == states(begun)


def test_trials_told_and_trials_asked_are_one_kind_to_the_study(search):
    first = search()
    answered(first)
    asked = {trial.user_attrs["config"]: trial for trial in first._study.trials if trial.state.name == "COMPLETE"}
    other = search(dict.fromkeys(ALL, measured()), spaces=dict(reversed(SPACES.items())))
    for trial in other._study.trials:
        twin = asked[trial.user_attrs["config"]]
        assert trial.params == twin.params
        assert {n: set(d.choices) for n, d in trial.distributions.items()} == {
            n: set(d.choices) for n, d in twin.distributions.items()
        }
        assert trial.constraints == twin.constraints


def test_a_search_that_was_ended_leaves_nothing_running_or_waiting_for_ever(search):
    next(search().asks())
    again = search()
    assert states(again) == ["FAIL"]
    assert again._study.trials[0].user_attrs["reason"] == "the search that asked for it was ended"
    assert set(answered(again)) == set(ALL)
    assert {"RUNNING", "WAITING"}.isdisjoint(states(again))


def test_an_answer_to_a_trial_that_another_search_has_closed_is_dropped(search):
    first = search()
    ask = next(first.asks())
    search()
    first.tell(ask, measured())
    assert states(first) == ["FAIL"]


def test_a_study_names_its_metric_and_why_a_trial_failed(search):
    running = search()
    running.tell(next(running.asks()), Measurement(status=Status.OOM, reason="too much"))
    assert running._study.metric_names == ["log ms"]
    assert running._study.trials[0].user_attrs["reason"] == "oom: too much"
    answered(running)
    assert all(t.user_attrs["reason"] for t in running._study.trials if t.state.name in ("FAIL", "PRUNED"))


def test_what_is_to_be_tried_first_but_is_in_no_space_is_not(search):
    asked = answered(search(first=[Config.of("gone", x=1), ALL[-1]]))
    assert asked[:2] == [ALL[0], ALL[-1]]
    assert set(asked) == set(ALL)


def test_what_is_in_no_space_takes_no_place_among_those_tried_before_the_model_is_asked(search):
    gone = [Config.of("gone", x=x) for x in range(STARTUP)]
    assert search(first=gone)._plan == search()._plan
    assert len(search()._plan) == STARTUP


def test_no_memory_at_all_makes_everything_infeasible(store):
    search = Search(open_storage(store), "cell", SPACES, {DEFAULTS[0]: measured()}, 0)
    answered(search)
    violations = [trial.constraints["memory"] for trial in search._study.trials]
    assert len(violations) == len(ALL)
    assert min(violations) > 0
    assert search._log_ms() == {}
