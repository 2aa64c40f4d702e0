"""What a device reaches in plain operations."""

import planted
import pytest
import torch
from test_worker import DEADLINES, candidate, workers

from autotune import rates
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.device_rates import TRIES, DevicePeak
from autotune.environment import environment_of
from autotune.rates import RateTask, measure_rates
from autotune.worker import Worker

TASK = RateTask(device="cpu", dtype="float32", threads=1)
UNKNOWN = RateTask(device="cpu", dtype="float12", threads=1)
ENVIRONMENT = environment_of(torch.device("cpu"))
FLOPS = 2e9


class Answers:
    """Stands in for a worker that has measured these, one after the other; None: it could not."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.asked = []

    def rates(self, task):
        self.asked.append(task)
        return self.outcomes.pop(0)


@pytest.fixture
def small(monkeypatch):
    """Operations that take no time worth mentioning."""
    monkeypatch.setattr(rates, "MATRICES", {"cpu": (256,)})
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 1 << 20})


def dtype_of(call):
    """Of what an operation works on; copies count as float32."""
    operands = [x for x in call.args if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return operands[0].dtype if operands else torch.float32


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


def test_kernels_for_cpus_may_compute_in_float32_whatever_the_dtype(small, monkeypatch):
    """A processor without instructions for a dtype multiplies matrices of it a hundred times as slowly."""
    taken = {torch.float16: 8.0, torch.float32: 2.0}
    monkeypatch.setattr(rates, "time_once", lambda call, device: taken[dtype_of(call)])
    measured = measure_rates(RateTask(device="cpu", dtype="float16", threads=1))
    assert measured.matmul_flops_per_s == pytest.approx(2 * 256**3 / 2e-3)


def test_a_product_that_would_take_minutes_is_not_tried(monkeypatch):
    multiplied = []

    def time_once(call, device):
        size = call().shape[-1]
        multiplied.append(size)
        return 1e3 * (size / 128) ** 3  # a second for the smallest

    monkeypatch.setattr(rates, "MATRICES", {"cpu": (128, 256)})
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(rates, "time_once", time_once)
    assert measure_rates(TASK).matmul_flops_per_s == pytest.approx(2 * 128**3 / 1.0)
    assert 256 not in multiplied


def test_as_many_threads_work_as_the_task_says(small):
    torch.set_num_threads(2)
    measure_rates(TASK)
    assert torch.get_num_threads() == 1


def peak_of(store, *outcomes):
    worker = Answers(*outcomes)
    return DevicePeak(store, worker, store.begin_run("autotune"), ENVIRONMENT, "cpu", "float32"), worker


def reached(flops_per_s):
    return rates.Rates(matmul_flops_per_s=flops_per_s, copy_bytes_per_s=2.0)


def timed(share_of_second):
    return Measurement(status=Status.OK, times_ms=(1e3 * share_of_second * FLOPS / 1e9,), rel_error=0.0)


def test_rates_are_stored_for_the_environment_and_dtype(store):
    peak, worker = peak_of(store, reached(3.0))
    assert peak.flops_per_s is None
    peak.measure()
    (rate,) = store.rates(environment_fingerprint=ENVIRONMENT.fingerprint)
    assert (rate.dtype, rate.matmul_flops_per_s, rate.copy_bytes_per_s) == ("float32", 3.0, 2.0)
    assert worker.asked == [RateTask(device="cpu", dtype="float32", threads=ENVIRONMENT.threads)]
    assert peak.flops_per_s == peak_of(store)[0].flops_per_s == 3.0


def test_nothing_is_stored_of_a_worker_that_could_not_tell(store):
    peak, _ = peak_of(store, None)
    peak.measure()
    assert store.rates() == []
    assert peak.checked(FLOPS, timed(1e-9)) == timed(1e-9)  # and nothing can be held against nothing


def test_what_is_slower_than_the_peak_is_believed(store):
    peak, worker = peak_of(store, reached(1e9))
    peak.measure()
    assert peak.checked(FLOPS, timed(1.01)) == timed(1.01)
    assert len(worker.asked) == 1


def test_what_is_faster_than_the_peak_is_wrong_however_often_the_peak_is_measured(store):
    peak, worker = peak_of(store, *[reached(1e9)] * (1 + TRIES))
    peak.measure()
    checked = peak.checked(FLOPS, timed(0.5))
    assert checked.status is Status.WRONG_RESULT
    assert checked.reason == "0.002 TFLOP/s is above the device's measured peak, 0.001"
    assert len(worker.asked) == 1 + TRIES


def test_a_peak_measured_on_a_busy_machine_is_corrected(store):
    peak, _ = peak_of(store, reached(1e9), reached(4e9))
    peak.measure()
    assert peak.checked(FLOPS, timed(0.5)) == timed(0.5)
    assert peak.flops_per_s == 4e9


def test_failures_are_left_as_they_are(store):
    failed = Measurement(status=Status.OOM, reason="planted")
    assert peak_of(store)[0].checked(FLOPS, failed) == failed


@pytest.mark.slow
def test_a_worker_measures_them_and_one_that_dies_of_it_is_replaced():
    with Worker(DEADLINES) as worker:
        assert worker.rates(TASK).matmul_flops_per_s > 0
        before = workers()
        assert worker.rates(UNKNOWN) is None
        assert worker.measure(candidate(planted.CORRECT)).status is Status.OK
        assert workers() != before
