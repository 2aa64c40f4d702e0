"""The rows every format shows: one for each configuration that was tried on a problem in an environment."""

from dataclasses import dataclass
from functools import lru_cache

from autotune.db.records import Environment, Measurement, Rate, Record, Status
from autotune.reports.figures import finite, rate
from autotune.reports.implementations import implementation, published_name
from autotune.reports.rates import best_rates
from autotune.reports.setting import Setting
from autotune.reports.source import Source
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Suite


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
    predicted_memory_mib: float | None  # what was expected before it ran
    rel_error: float | None
    max_abs_error: float | None
    tflops: float | None
    matmul_share: float | None  # of the device's measured matrix product, in this dtype
    density: float
    reason: str
    flag: str  # why the result is not believed; empty where it is, and where there is none
    device: str
    environment: str  # fingerprint of device and software
    problem: str  # key of shapes, dtype, causality and direction


@dataclass(frozen=True, slots=True)
class Entry:
    """A row with the record it was made of."""

    row: Row
    record: Record
    measured: int  # how often this configuration ran; this record is the one that stands
    place: int = 0  # of its implementation in the suite

    @property
    def ranked_ms(self) -> float | None:
        """The time by which it may be compared with others; None unless it is ok and believed."""
        return self.row.time_ms if self.row.status == Status.OK and not self.row.flag else None

    @property
    def verdict(self) -> str:
        """The status, and whether an ok row is believed."""
        return "ok but flagged" if self.row.status == Status.OK and self.row.flag else self.row.status

    @property
    def status_text(self) -> str:
        """The verdict, with the signal that ended the worker."""
        signal = self.record.measurement.signal
        return self.verdict if signal is None else f"{self.verdict} (signal {signal})"


def rows(source: Source) -> list[Row]:
    """One row for each (environment, problem, pattern, configuration), sorted by them; the latest record stands."""
    return [entry.row for entry in entries(source)]


def entries(source: Source) -> list[Entry]:
    """The same rows with their records; of a suite, its implementations alone, in their order.

    A record that was skipped measured nothing: it never replaces one that ran.
    """
    tried: dict[tuple[Environment, Problem, Pattern, Config], list[Record]] = {}
    for record in source.records:
        tried.setdefault((record.environment, record.problem, record.pattern, record.config), []).append(record)
    best = best_rates(source.rates)
    suites = {environment: source.suite_in(environment) for environment, *_ in tried}
    found = []
    for (environment, *_), same in tried.items():
        stands = max(same, key=lambda record: (_ran(record), record.created_at, record.id))
        if named := _name(suites[environment], stands):
            row = _row(stands, named[1], best.get((stands.environment, stands.problem.dtype)))
            found.append(Entry(row, stands, sum(map(_ran, same)) or 1, named[0]))
    return sorted(found, key=_order)


def _name(suite: Suite | None, record: Record) -> tuple[int, str] | None:
    """Place and name of the implementation; None if it is not part of the suite."""
    problem, pattern = record.problem, record.pattern
    if suite is None:
        return 0, implementation(pattern, problem.kv_len, record.config)
    row = suite.rows(problem, pattern).get(record.config)
    return None if row is None else (suite.implementations.index(row), published_name(row, pattern, problem.kv_len))


def _ran(record: Record) -> bool:
    return record.measurement.status != Status.SKIPPED


def _order(entry: Entry) -> tuple[str | int | float, ...]:
    environment, problem, row = entry.record.environment, entry.record.problem, entry.row
    return (
        environment.device_name,
        environment.fingerprint,
        Setting.of(problem).text,
        entry.place,
        row.implementation,
        row.seq_len,
        row.status != Status.OK,
        entry.ranked_ms or 0.0,
        row.config,
    )


def _row(record: Record, name: str, best: Rate | None) -> Row:
    measurement, problem, pattern = record.measurement, record.problem, record.pattern
    time_ms, times_ms = finite(measurement.time_ms), measurement.times_ms
    rel_error = finite(measurement.rel_error)
    verified = measurement.status == Status.OK and rel_error is not None
    density, flops = _density_and_flops(pattern, problem)
    tflops = flops / time_ms / 1e9 if verified and time_ms else None
    return Row(
        implementation=name,
        pattern=pattern.label,
        strategy=record.config.strategy,
        config=record.config.text,
        seq_len=problem.kv_len,
        status=str(measurement.status),
        time_ms=time_ms,
        time_min_ms=finite(min(times_ms, default=None)),
        time_max_ms=finite(max(times_ms, default=None)),
        repeats=len(times_ms),
        peak_memory_mib=_mebibytes(measurement.peak_memory_bytes),
        predicted_memory_mib=_mebibytes(measurement.predicted_memory_bytes),
        rel_error=rel_error,
        max_abs_error=finite(measurement.max_abs_error),
        tflops=tflops,
        matmul_share=tflops * 1e12 / best.matmul_flops_per_s if tflops and best else None,
        density=density,
        reason=measurement.reason,
        flag=_flag(measurement, tflops, best),
        device=record.environment.device_name,
        environment=record.environment.fingerprint,
        problem=record.problem.key,
    )


def _mebibytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**20


def _flag(measurement: Measurement, tflops: float | None, best: Rate | None) -> str:
    """Why the result is not believed."""
    if measurement.status == Status.WRONG_RESULT:
        return measurement.reason or "the output is wrong"
    if measurement.status != Status.OK:
        return ""
    if tflops is None:
        return "no valid time or error"
    peak = best.matmul_flops_per_s / 1e12 if best else None
    if peak is None or tflops <= peak:
        return ""
    return f"achieved {rate(tflops)} TFLOP/s is above the device's measured peak, {rate(peak)} TFLOP/s"


@lru_cache(maxsize=4096)
def _density_and_flops(pattern: Pattern, problem: Problem) -> tuple[float, float]:
    return pattern.density(problem), pattern.flops(problem)
