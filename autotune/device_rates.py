"""Storing what a device reaches in plain operations, for the reports to hold attention against."""

from autotune.db.records import Environment
from autotune.db.store import Store
from autotune.rates import RateTask
from autotune.worker import Worker


def store_rates(store: Store, worker: Worker, run_id: int, environment: Environment, device: str, dtype: str) -> None:
    """Measure the rates once more, for on a shared machine the best of many runs counts."""
    rates = worker.rates(RateTask(device=device, dtype=dtype, threads=environment.threads))
    if rates is not None:
        store.add_rate(run_id, environment, dtype, rates.matmul_flops_per_s, rates.copy_bytes_per_s)


def has_rates(store: Store, environment: Environment, dtype: str) -> bool:
    """Whether they have been measured here for this dtype."""
    return any(rate.dtype == dtype for rate in store.rates(environment_fingerprint=environment.fingerprint))
