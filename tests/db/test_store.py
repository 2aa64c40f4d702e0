import gc
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from facts import CONFIGS, ENVIRONMENTS, MEASUREMENTS, PATTERNS, PROBLEMS
from hypothesis import given, settings
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.db.tables import ConfigRow, EnvironmentRow, MeasurementRow, PatternRow, ProblemRow
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.problem import Problem


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """One database that all examples of a property add to."""
    with Store.open(tmp_path_factory.mktemp("db") / "t.db") as store:
        yield store


@settings(max_examples=40, deadline=None)
@given(ENVIRONMENTS, PROBLEMS, PATTERNS, CONFIGS, MEASUREMENTS)
def test_every_field_comes_back(shared_store, environment, problem, pattern, config, measurement):
    run_id = shared_store.begin_run("autotune tune --lengths 4k")
    number = shared_store.add(run_id, environment, problem, pattern, config, measurement)
    records = shared_store.records(
        environment_fingerprint=environment.fingerprint, device=environment.device, problem=problem, pattern=pattern
    )
    record = next(record for record in records if record.id == number)
    assert record.environment == environment
    assert record.problem == problem
    assert record.pattern == pattern
    assert record.config == config
    assert {name: type(value) for name, value in record.config.params} == {
        name: type(value) for name, value in config.params
    }
    assert record.measurement == measurement
    assert record.run.command == "autotune tune --lengths 4k"


def test_moments_are_in_utc(store, add):
    before = datetime.now(UTC)
    add(store)
    (record,) = store.records()
    assert before <= record.run.started_at <= record.created_at <= datetime.now(UTC)
    assert record.created_at.utcoffset() == record.run.started_at.utcoffset() == UTC.utcoffset(None)


def test_an_error_that_is_not_a_number_is_kept_as_none(store, add):
    add(store, measurement=Measurement(status=Status.WRONG_RESULT, rel_error=float("nan")))
    assert store.records()[0].measurement.rel_error is None


def test_what_measurements_share_is_stored_once(store, add):
    for length in (1024, 1024, 2048):
        add(store, problem=Problem.self_attention(length))
    engine = create_engine(store.connection_url)
    with Session(engine) as session:
        counts = {
            table.__tablename__: session.scalar(select(func.count()).select_from(table))
            for table in (EnvironmentRow, ProblemRow, PatternRow, ConfigRow, MeasurementRow)
        }
        uids = session.scalars(select(MeasurementRow.uid)).all()
    engine.dispose()
    assert counts == {"environments": 1, "problems": 2, "patterns": 1, "configs": 1, "measurements": 3}
    assert len(set(uids)) == 3


def test_records_come_oldest_first_and_filtered(store, add, environment):
    gpu = replace(environment, device="cuda", device_name="Some GPU")
    window = LocalWindow(sparsity=0.9)
    first = add(store)
    second = add(store, environment=gpu)
    third = add(store, problem=Problem.self_attention(8192), pattern=window)

    def ids(**wanted):
        return [record.id for record in store.records(**wanted)]

    assert ids() == [first, second, third]
    assert ids(environment_fingerprint=environment.fingerprint) == [first, third]
    assert ids(device="cuda") == [second]
    assert ids(problem=Problem.self_attention(8192)) == [third]
    assert ids(pattern=Dense()) == [first, second]
    assert ids(pattern=window, device="cuda") == []


def test_the_latest_decision_counts_for_each_cell(store, add, environment):
    slow, fast = Config.of("sdpa", backend="math"), Config.of("sdpa", backend="flash")
    problem, other = Problem.self_attention(1024), Problem.self_attention(2048)
    slow_id, fast_id = add(store, config=slow), add(store, config=fast)
    store.decide(environment, problem, Dense(), slow, slow_id, None, 1)
    store.decide(environment, other, Dense(), slow, slow_id, 0.5, 2)
    store.decide(environment, problem, Dense(), fast, fast_id, 0.25, 3)
    earlier, later = store.choices()
    assert (earlier.problem, earlier.config, earlier.margin, earlier.candidates) == (other, slow, 0.5, 2)
    assert (later.problem, later.config, later.margin, later.candidates) == (problem, fast, 0.25, 3)
    assert (later.environment, later.pattern, later.measurement_id) == (environment, Dense(), fast_id)
    assert earlier.created_at <= later.created_at <= datetime.now(UTC)
    assert store.choices(problem=other) == [earlier]
    assert store.choices(pattern=LocalWindow(sparsity=0.9)) == []
    assert store.choices(device="cuda") == store.choices(environment_fingerprint="none") == []


def test_a_race_and_its_decision_are_stored_together_or_not_at_all(store, environment, monkeypatch):
    slow, fast = Config.of("sdpa", backend="math"), Config.of("sdpa", backend="flash")
    problem = Problem.self_attention(1024)
    raced = {slow: Measurement(status=Status.OK, race="r"), fast: Measurement(status=Status.WRONG_RESULT, race="r")}
    cell = store.begin_run("autotune tune"), environment, problem, Dense()

    def full(**values):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("autotune.db.writing.DecisionRow", full)
        with pytest.raises(OSError, match="disk full"):
            store.add_race(*cell, raced, slow, 0.5, 3)
    assert store.records() == store.choices() == []
    ids = store.add_race(*cell, raced, slow, 0.5, 3)
    (choice,) = store.choices()
    assert {record.config: record.id for record in store.records()} == ids
    assert {record.config: record.measurement for record in store.records()} == raced
    assert (choice.config, choice.measurement_id, choice.margin, choice.candidates) == (slow, ids[slow], 0.5, 3)
    assert choice.created_at >= max(record.created_at for record in store.records())
    store.add_race(*cell, raced, None, None, 3)
    assert (len(store.records()), len(store.choices())) == (4, 1)


def test_a_measurement_needs_a_run(store, add):
    with pytest.raises(IntegrityError):
        add(store, run_id=1234)
    assert store.records() == []


def test_a_database_in_memory_lasts_as_long_as_its_store(add):
    with Store.open("sqlite://") as store:
        add(store)
        assert len(store.records()) == 1


def test_ten_thousand_measurements_are_read_well_within_a_second(store, add, environment):
    number = add(store)
    engine = create_engine(store.connection_url)
    with Session(engine) as session:
        row = session.get_one(MeasurementRow, number)
        names = [column.name for column in MeasurementRow.__table__.columns if column.name not in ("id", "uid")]
        values = {name: getattr(row, name) for name in names}
        session.bulk_insert_mappings(MeasurementRow, [values] * 9_999)
        session.commit()
    engine.dispose()
    gc.collect()
    gc.freeze()  # what the tests before left is not this one's to look through
    try:
        start = time.process_time()
        records = store.records()
        spent_s = time.process_time() - start
    finally:
        gc.unfreeze()
    assert len(records) == 10_000
    assert spent_s < 1.0
    assert records[0].problem is records[-1].problem
