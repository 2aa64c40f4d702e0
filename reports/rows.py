"""The rows every format shows: one for each configuration that was tried on a problem in an environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from autotune.db.records import Environment, Record, Status
from autotune.reports.figures import finite
from autotune.reports.implementations import implementation
from autotune.reports.setting import Setting
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement, as every format shows it; figures that are missing or not finite are None."""

    implementation: str
    pattern: str
    strategy: str
    config: str
    seq_len: int
    status: str
    time_ms: float | None
    time_min_ms: float | None
    time_max_ms: float | None
    repeats: int
    peak_memory_mib: float | None
    rel_error: float | None
    max_abs_error: float | None
    tflops: float | None
    density: float
    reason: str
    device: str
    environment: str  # fingerprint of device and software
    problem: str  # key of shapes, dtype, causality and direction


@dataclass(frozen=True, slots=True)
class Entry:
    """A row with the record it was made of."""

    row: Row
    record: Record
    measured: int  # how often this configuration ran; this record is the one that stands

    @property
    def ranked_ms(self) -> float | None:
        """The time by which it may be compared with others; None unless it is ok, was timed, and has an error."""
        verified = self.row.status == Status.OK and self.row.rel_error is not None
        return self.row.time_ms if verified and self.row.time_ms else None

    @property
    def status_text(self) -> str:
        """The status, with the signal that ended the worker, or why an ok row is not ranked."""
        if self.row.status == Status.OK and self.ranked_ms is None:
            return "ok (not ranked: no valid time or error)"
        signal = self.record.measurement.signal
        return self.row.status if signal is None else f"{self.row.status} (signal {signal})"


def rows(records: Sequence[Record]) -> list[Row]:
    """One row for each (environment, problem, pattern, configuration), sorted by them; the latest record stands."""
    return [entry.row for entry in entries(records)]


def entries(records: Sequence[Record]) -> list[Entry]:
    """The same rows with their records.

    A record that was skipped measured nothing: it never replaces one that ran.
    """
    tried: dict[tuple[Environment, Problem, Pattern, Config], list[Record]] = {}
    for record in records:
        tried.setdefault((record.environment, record.problem, record.pattern, record.config), []).append(record)
    found = []
    for same in tried.values():
        stands = max(same, key=lambda record: (_ran(record), record.created_at, record.id))
        found.append(Entry(_row(stands), stands, sum(map(_ran, same)) or 1))
    return sorted(found, key=_order)


def _ran(record: Record) -> bool:
    return record.measurement.status != Status.SKIPPED


def _order(entry: Entry) -> tuple[str | int | float, ...]:
    environment, problem, row = entry.record.environment, entry.record.problem, entry.row
    return (
        environment.device_name,
        environment.fingerprint,
        Setting.of(problem).text,
        row.implementation,
        row.seq_len,
        row.status != Status.OK,
        entry.ranked_ms or 0.0,
        row.config,
    )


def _row(record: Record) -> Row:
    measurement, problem, pattern = record.measurement, record.problem, record.pattern
    time_ms, times_ms = finite(measurement.time_ms), measurement.times_ms
    rel_error = finite(measurement.rel_error)
    verified = measurement.status == Status.OK and rel_error is not None
    density, flops = _density_and_flops(pattern, problem)
    return Row(
        implementation=implementation(pattern, problem.kv_len, record.config),
        pattern=pattern.label,
        strategy=record.config.strategy,
        config=record.config.text,
        seq_len=problem.kv_len,
        status=str(measurement.status),
        time_ms=time_ms,
        time_min_ms=finite(min(times_ms, default=None)),
        time_max_ms=finite(max(times_ms, default=None)),
        repeats=len(times_ms),
        peak_memory_mib=None if measurement.peak_memory_bytes is None else measurement.peak_memory_bytes / 2**20,
        rel_error=rel_error,
        max_abs_error=finite(measurement.max_abs_error),
        tflops=flops / time_ms / 1e9 if verified and time_ms else None,
        density=density,
        reason=measurement.reason,
        device=record.environment.device_name,
        environment=record.environment.fingerprint,
        problem=record.problem.key,
    )


@lru_cache(maxsize=4096)
def _density_and_flops(pattern: Pattern, problem: Problem) -> tuple[float, float]:
    return pattern.density(problem), pattern.flops(problem)
