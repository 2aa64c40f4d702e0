"""Databases filled by hand: measurements that no machine took, in this machine's name."""

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from autotune.db.records import Environment, Measurement, Record, Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

CPU = torch.device("cpu")
MIB = 1 << 20
Entry = tuple[Problem, Pattern, Config, Measurement]


def ok(time_ms: float, peak_mib: float = 1.0) -> Measurement:
    """A right result in three repeats."""
    times = (time_ms, time_ms * 1.5, time_ms * 0.5)
    return Measurement(status=Status.OK, times_ms=times, peak_memory_bytes=int(peak_mib * MIB), rel_error=1e-7)


def failed(status: Status, time_ms: float | None = None) -> Measurement:
    """A failure, by default of a candidate that was never timed."""
    times = () if time_ms is None else (time_ms,)
    return Measurement(status=status, reason=f"planted {status}", times_ms=times, peak_memory_bytes=1)


@lru_cache
def _empty_database() -> bytes:
    """Migrating takes longer than most tests here, so it is done once."""
    with tempfile.TemporaryDirectory() as folder:
        Store.open(Path(folder) / "empty.db").close()
        return (Path(folder) / "empty.db").read_bytes()


def fill(path: Path, entries: Sequence[Entry], *, environment: Environment | None = None) -> list[int]:
    """Store measurements in this order; returns their ids."""
    if not path.exists():
        path.write_bytes(_empty_database())
    with Store.open(path) as store:
        run_id = store.begin_run("autotune tune, by hand")
        return [store.add(run_id, environment or environment_of(CPU), *entry) for entry in entries]


def stored(path: Path, entries: Sequence[Entry], *, environment: Environment | None = None) -> list[Record]:
    """Store measurements and read back everything in the database."""
    fill(path, entries, environment=environment)
    with Store.open(path, read_only=True) as store:
        return store.records()
