"""Merging by content: twice is once, both ways is the same, and a conflict changes nothing."""

from dataclasses import replace

import pytest

from autotune.db.errors import StoreError
from autotune.db.merging import Merged
from autotune.db.records import Measurement, Results, Status
from autotune.db.results_writer import results_text
from autotune.db.store import Store
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "other.db") as store:
        yield store


@pytest.fixture
def fill(add, add_rate, environment):
    """Give a store a measured cell with a decision, and a rate."""

    def fill(store, length, pattern=None):
        run_id = store.begin_run(f"autotune tune --lengths {length}")
        problem, config = Problem.self_attention(length), Config.of("ring", chunk_size=length)
        number = add(store, run_id=run_id, problem=problem, pattern=pattern, config=config)
        store.decide(environment, problem, pattern or Dense(), config, number, 0.5, 1)
        add_rate(store, run_id=run_id, matmul_flops_per_s=float(length))

    return fill


def text(store):
    return results_text(store.results())


def test_everything_arrives_and_a_second_time_nothing_changes(store, other, fill):
    fill(other, 512)
    fill(other, 1024, Dilated.longnet(1024))
    assert store.merge(other.results()) == Merged(records=2, choices=2, rates=2, known=0)
    once = text(store)
    assert once == text(other)
    assert store.merge(other.results()) == Merged(records=0, choices=0, rates=0, known=6)
    assert text(store) == once
    assert store.choices()[0].measurement_id in {record.id for record in store.records()}


def test_two_databases_that_know_different_things_end_up_the_same(store, other, fill):
    fill(store, 512)
    fill(other, 1024)
    fill(store, 2048)
    store.merge(other.results())
    assert other.merge(store.results()) == Merged(records=2, choices=2, rates=2, known=3)
    assert text(store) == text(other)
    assert [record.problem.kv_len for record in store.records()] == [512, 1024, 2048]


def test_a_merged_measurement_goes_on_being_one_of_its_cell(store, other, fill, add, environment):
    fill(other, 512)
    store.merge(other.results())
    fill(store, 512)
    cell = store.records(problem=Problem.self_attention(512), environment_fingerprint=environment.fingerprint)
    assert len(cell) == 2
    assert len(store.choices()) == 1


@pytest.mark.parametrize("kind", ["records", "rates"])
def test_another_content_under_a_known_uid_is_refused_and_nothing_is_added(store, other, fill, kind):
    fill(other, 512)
    store.merge(other.results())
    fill(other, 1024)
    results = other.results()
    changed = (
        {"records": [replace(results.records[0], config=Config.of("sdpa")), *results.records[1:]]}
        if kind == "records"
        else {"rates": [replace(results.rates[0], dtype="float64"), *results.rates[1:]]}
    )
    before = text(store)
    with pytest.raises(StoreError, match="says something else than the one that is stored under this uid"):
        store.merge(replace(results, **changed))
    assert text(store) == before


def test_nothing_is_merged_by_halves(store, other, fill, monkeypatch):
    fill(other, 512)
    monkeypatch.setattr("autotune.db.merging.rate_values", lambda rate: {"dtype": None})
    with pytest.raises(Exception, match="NOT NULL"):
        store.merge(other.results())
    assert store.results() == Results(records=[], choices=[], rates=[])


def test_processes_merge_the_same_while_others_measure(path, tmp_path, fill, add, in_processes):
    with Store.open(tmp_path / "other.db") as other:
        for length in (256, 512, 1024):
            fill(other, length)
        results = other.results()
    Store.open(path).close()

    def work(number):
        with Store.open(path) as store:
            if number % 2:
                store.merge(results)
            else:
                for step in range(5):
                    add(store, problem=Problem.self_attention(256 << step), config=Config.of("sdpa", step=number))

    assert in_processes(work, count=4) == [0, 0, 0, 0]
    with Store.open(path) as store:
        assert len(store.records()) == 3 + 10
        assert store.merge(results).known == 9


def test_a_failure_is_merged_like_a_success(store, other, add):
    add(other, measurement=Measurement(status=Status.CRASHED, signal=11, reason="killed by SIGSEGV"))
    store.merge(other.results())
    assert store.records()[0].measurement == other.records()[0].measurement
