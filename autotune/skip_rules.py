"""Why a candidate is not worth running, said before it runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autotune.calibration import Calibrations, Prediction
from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Status
from autotune.effort import Effort
from autotune.forecast import MONOTONE, Known, same_kind
from autotune.strategies.config import Config
from autotune.strategies.strategy import Strategy
from autotune.units import format_bytes, format_ms

CALLS = 3  # what a candidate needs at least: the gate's, the one whose memory is watched, one repeat


@dataclass(frozen=True, slots=True)
class SkipRules:
    """The rules for one cell.

    Args:
        cell: what is searched.
        memory_limit_bytes: a predicted peak above this is not run.
        call_limit_s: a candidate predicted to take longer for one call is not run.
        skip_factor: a candidate that was so many times slower than the best at a shorter length is not run.
        defaults: configurations to which that does not apply.
        known: what each configuration, or its like, did at another length.
        calibrations: what has run, for the prediction of memory.
    """

    cell: Cell
    memory_limit_bytes: int
    call_limit_s: float
    known: Mapping[Config, Known]
    skip_factor: float = float("inf")
    defaults: Collection[Config] = ()
    calibrations: Calibrations = field(default_factory=Calibrations)

    @classmethod
    def of(
        cls,
        cell: Cell,
        memory_limit_bytes: int,
        effort: Effort,
        defaults: Collection[Config],
        records: Sequence[Record],
    ) -> "SkipRules":
        """Look at records of the same kind of problem at shorter lengths, the longest of them."""
        shorter: dict[Config, Known] = {}
        for record in records:
            if record.problem.kv_len >= cell.problem.kv_len or not same_kind(record, cell):
                continue
            if record.measurement.status is Status.SKIPPED:
                continue
            known = shorter.get(record.config)
            if known is None or known.length <= record.problem.kv_len:
                shorter[record.config] = Known(record.problem, record.pattern, record.measurement)
        calibrations = Calibrations(records)
        return cls(cell, memory_limit_bytes, effort.run_s / CALLS, shorter, effort.skip_factor, defaults, calibrations)

    def verdict(self, strategy: Strategy, config: Config) -> Measurement | None:
        """A ``skipped`` measurement with the rule, or None to run the candidate."""
        predicted = self.predicted(strategy, config)
        reason = self._too_large(predicted) or self._too_slow(config)
        if reason is None:
            return None
        return Measurement(status=Status.SKIPPED, reason=reason, predicted_memory_bytes=predicted.peak_bytes)

    def predicted(self, strategy: Strategy, config: Config) -> Prediction:
        """Peak memory of a candidate, as far as it can be told before it runs."""
        estimate = strategy.memory_bytes(self.cell.problem, self.cell.pattern, config)
        return self.calibrations.predicted(self.cell.problem, config, estimate)

    def _too_large(self, predicted: Prediction) -> str | None:
        if predicted.peak_bytes <= self.memory_limit_bytes:
            return None
        need, limit = format_bytes(predicted.peak_bytes), format_bytes(self.memory_limit_bytes)
        return f"predicted peak memory {need} ({predicted.basis}) is over the limit, {limit}"

    def _too_slow(self, config: Config) -> str | None:
        if (known := self.known.get(config)) is None:
            return None
        status, time_ms, length = known.measurement.status, known.time_ms, known.length
        if status in MONOTONE and length < self.cell.problem.kv_len:
            return f"{status} already at length {length:,}; --force tries again"
        predicted_ms = known.predicted_ms(self.cell)
        if time_ms is None or predicted_ms is None:
            return None
        if predicted_ms > (limit_ms := self.call_limit_s * 1e3):
            predicted, limit = format_ms(predicted_ms), format_ms(limit_ms)
            return f"predicted {predicted} a call, from length {length:,}; the limit is {limit}"
        best_ms = self._best_ms(length)
        if config not in self.defaults and time_ms > best_ms * self.skip_factor:
            return f"{time_ms / best_ms:.1f} times slower than the best at length {length:,}"
        return None

    def _best_ms(self, length: int) -> float:
        times = (known.time_ms for known in self.known.values() if known.length == length)
        return min(time_ms for time_ms in times if time_ms is not None)
