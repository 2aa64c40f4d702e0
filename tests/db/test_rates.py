from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from autotune.db.errors import StoreError
from autotune.db.records import Rate, Run
from autotune.db.store import Store
from autotune.db.tables import EnvironmentRow, RateRow
from autotune.strategies.problem import DTYPES

SPEEDS = st.floats(0, allow_nan=False)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """One database that all examples of a property add to."""
    with Store.open(tmp_path_factory.mktemp("db") / "t.db") as store:
        yield store


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), SPEEDS, SPEEDS, st.integers(1, 512))
def test_every_field_comes_back(shared_store, environment, dtype, flops_per_s, bytes_per_s, threads):
    environment = replace(environment, threads=threads)
    run_id = shared_store.begin_run("autotune tune")
    shared_store.add_rate(run_id, environment, dtype, flops_per_s, bytes_per_s)
    rate = shared_store.rates(environment_fingerprint=environment.fingerprint, device=environment.device)[-1]
    assert rate == Rate(
        uid=rate.uid,
        created_at=rate.created_at,
        run=Run(command="autotune tune", started_at=rate.run.started_at),
        environment=environment,
        dtype=dtype,
        matmul_flops_per_s=flops_per_s,
        copy_bytes_per_s=bytes_per_s,
    )


def test_moments_are_in_utc(store, add_rate):
    before = datetime.now(UTC)
    add_rate(store)
    (rate,) = store.rates()
    assert before <= rate.created_at <= datetime.now(UTC)
    assert rate.created_at.utcoffset() == timedelta(0)


def test_rates_come_oldest_first_and_filtered(store, add_rate, environment):
    gpu = replace(environment, device="cuda", device_name="Some GPU")
    for speed, where in ((3.0, environment), (1.0, gpu), (2.0, environment)):
        add_rate(store, environment=where, matmul_flops_per_s=speed)

    def speeds(**wanted):
        return [rate.matmul_flops_per_s for rate in store.rates(**wanted)]

    assert speeds() == [3.0, 1.0, 2.0]
    assert speeds(environment_fingerprint=environment.fingerprint) == speeds(device="cpu") == [3.0, 2.0]
    assert speeds(environment_fingerprint=gpu.fingerprint) == speeds(device="cuda") == [1.0]
    assert speeds(environment_fingerprint=gpu.fingerprint, device="cpu") == speeds(environment_fingerprint="") == []


def test_order_is_that_of_the_moments_not_of_the_ids(store, add_rate):
    first, second = (add_rate(store, matmul_flops_per_s=speed) for speed in (1.0, 2.0))
    engine = create_engine(store.connection_url)
    with Session(engine) as session:
        # As if the clock had been behind, or a copy been merged.
        session.get_one(RateRow, second).created_at = session.get_one(RateRow, first).created_at - timedelta(days=1)
        session.commit()
    engine.dispose()
    assert [rate.matmul_flops_per_s for rate in store.rates()] == [2.0, 1.0]


def test_each_rate_has_a_uid_and_shares_its_environment(store, add, add_rate):
    add(store)
    numbers = [add_rate(store, dtype=dtype) for dtype in ("float32", "bfloat16")]
    engine = create_engine(store.connection_url)
    with Session(engine) as session:
        stored = session.execute(select(RateRow.id, RateRow.uid).order_by(RateRow.id)).all()
        environments = session.scalar(select(func.count()).select_from(EnvironmentRow))
    engine.dispose()
    assert [number for number, _ in stored] == numbers
    assert len({uid for _, uid in stored}) == 2
    assert environments == 1


def test_rates_and_measurements_do_not_mix(store, add, add_rate):
    add(store)
    add_rate(store)
    assert (len(store.records()), len(store.rates()), store.choices()) == (1, 1, [])


def test_two_stores_see_each_others_rates_at_once(path, add_rate):
    with Store.open(path) as one, Store.open(path) as other, Store.open(path, read_only=True) as reader:
        add_rate(one, dtype="float32")
        add_rate(other, dtype="bfloat16")
        for store in (one, other, reader):
            assert [rate.dtype for rate in store.rates()] == ["float32", "bfloat16"]


@pytest.mark.parametrize("wrong", [{"run_id": 1234}, {"matmul_flops_per_s": float("nan")}, {"copy_bytes_per_s": None}])
def test_a_rate_needs_a_run_and_numbers(store, add_rate, wrong):
    with pytest.raises(IntegrityError):
        add_rate(store, **wrong)
    assert store.rates() == []


def test_a_rate_is_not_written_through_a_reader(path, add_rate):
    with Store.open(path) as store:
        run_id = store.begin_run("autotune tune")
    with Store.open(path, read_only=True) as store, pytest.raises(StoreError, match="is read-only; make file"):
        add_rate(store, run_id=run_id)
