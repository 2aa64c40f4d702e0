"""What a device reaches in plain operations."""

import planted
import pytest
import torch
from test_worker import DEADLINES, candidate, workers

from autotune import rates
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.device_rates import has_rates, store_rates
from autotune.environment import environment_of
from autotune.rates import RateTask, measure_rates
from autotune.worker import Worker

TASK = RateTask(device="cpu", dtype="float32", threads=1)
UNKNOWN = RateTask(device="cpu", dtype="float12", threads=1)
ENVIRONMENT = environment_of(torch.device("cpu"))


class Answers:
    """Stands in for a worker that has measured this, or could not."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.asked = []

    def rates(self, task):
        self.asked.append(task)
        return self.outcome


@pytest.fixture
def small(monkeypatch):
    """Operations that take no time worth mentioning."""
    monkeypatch.setattr(rates, "MATRIX", {"cpu": 256})
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 1 << 20})


@pytest.fixture
def store(empty_database):
    with Store.open(empty_database) as store:
        yield store


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rates_are_those_of_a_machine_of_this_world(small, dtype):
    measured = measure_rates(RateTask(device="cpu", dtype=dtype, threads=1))
    assert 1e6 < measured.matmul_flops_per_s < 1e14
    assert 1e6 < measured.copy_bytes_per_s < 1e13


def test_the_best_of_the_repeats_counts(small, monkeypatch):
    times_ms = iter([4.0, 2.0, 8.0] * 20)
    monkeypatch.setattr(rates, "REPEATS", 3)
    monkeypatch.setattr(rates, "time_once", lambda call, device: next(times_ms))
    measured = measure_rates(TASK)
    assert measured.matmul_flops_per_s == pytest.approx(2 * 256**3 / 2e-3)
    assert measured.copy_bytes_per_s == pytest.approx(2 * (1 << 20) / 2e-3)  # read and written


def test_as_many_threads_work_as_the_task_says(small):
    torch.set_num_threads(2)
    measure_rates(TASK)
    assert torch.get_num_threads() == 1


def test_rates_are_stored_for_the_environment_and_dtype(store):
    worker, run_id = Answers(rates.Rates(matmul_flops_per_s=3.0, copy_bytes_per_s=2.0)), store.begin_run("autotune")
    assert not has_rates(store, ENVIRONMENT, "float32")
    store_rates(store, worker, run_id, ENVIRONMENT, "cpu", "float32")
    (rate,) = store.rates(environment_fingerprint=ENVIRONMENT.fingerprint)
    assert (rate.dtype, rate.matmul_flops_per_s, rate.copy_bytes_per_s) == ("float32", 3.0, 2.0)
    assert worker.asked == [RateTask(device="cpu", dtype="float32", threads=ENVIRONMENT.threads)]
    assert has_rates(store, ENVIRONMENT, "float32")
    assert not has_rates(store, ENVIRONMENT, "bfloat16")


def test_nothing_is_stored_of_a_worker_that_could_not_tell(store):
    store_rates(store, Answers(None), store.begin_run("autotune"), ENVIRONMENT, "cpu", "float32")
    assert store.rates() == []


@pytest.mark.slow
def test_a_worker_measures_them_and_one_that_dies_of_it_is_replaced():
    with Worker(DEADLINES) as worker:
        assert worker.rates(TASK).matmul_flops_per_s > 0
        before = workers()
        assert worker.rates(UNKNOWN) is None
        assert worker.measure(candidate(planted.CORRECT)).status is Status.OK
        assert workers() != before
