"""Why a candidate is not worth running, said before it runs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Status
from autotune.effort import Effort
from autotune.strategies.config import Config
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.strategy import Strategy
from autotune.units import format_bytes

MONOTONE = (Status.OOM, Status.TIMEOUT)  # what failed like this at a length fails at every longer one


CALLS = 3  # what a candidate needs at least: the gate's, the one whose memory is watched, one repeat


@dataclass(frozen=True, slots=True)
class SkipRules:
    """The rules for one cell.

    Args:
        cell: what is searched.
        memory_limit_bytes: a predicted peak above this is not run.
        run_s: the deadline that all calls of a candidate share.
        skip_factor: a candidate that was so many times slower than the best at a shorter length is not run.
        defaults: configurations to which that does not apply.
        shorter: each configuration's record at the longest of the shorter lengths where it was tried.
    """

    cell: Cell
    memory_limit_bytes: int
    run_s: float
    skip_factor: float
    defaults: Collection[Config]
    shorter: Mapping[Config, Record]

    @classmethod
    def of(
        cls,
        cell: Cell,
        memory_limit_bytes: int,
        effort: Effort,
        defaults: Collection[Config],
        records: Iterable[Record],
    ) -> "SkipRules":
        """Look at records of the same kind of problem at shorter lengths."""
        shorter: dict[Config, Record] = {}
        for record in records:
            if not _same_but_shorter(record, cell) or record.measurement.status is Status.SKIPPED:
                continue
            known = shorter.get(record.config)
            if known is None or known.problem.query_len <= record.problem.query_len:
                shorter[record.config] = record
        return cls(cell, memory_limit_bytes, effort.run_s, effort.skip_factor, defaults, shorter)

    def verdict(self, strategy: Strategy, config: Config) -> Measurement | None:
        """A ``skipped`` measurement with the rule, or None to run the candidate."""
        predicted = strategy.memory_bytes(self.cell.problem, self.cell.pattern, config)
        reason = self._too_large(predicted) or self._too_slow(config)
        if reason is None:
            return None
        return Measurement(status=Status.SKIPPED, reason=reason, predicted_memory_bytes=predicted)

    def _too_large(self, predicted: int) -> str | None:
        if predicted <= self.memory_limit_bytes:
            return None
        need, limit = format_bytes(predicted), format_bytes(self.memory_limit_bytes)
        return f"predicted peak memory {need} is over the limit, {limit}"

    def _too_slow(self, config: Config) -> str | None:
        if (record := self.shorter.get(config)) is None:
            return None
        length, status, time_ms = record.problem.query_len, record.measurement.status, record.measurement.time_ms
        if status in MONOTONE:
            return f"{status} already at length {length:,}"
        if time_ms is None:
            return None
        growth = self.cell.pattern.flops(self.cell.problem) / record.pattern.flops(record.problem)
        if CALLS * (predicted_s := time_ms / 1e3 * growth) > self.run_s:
            return (
                f"predicted {predicted_s:.3g} s a call, from length {length:,}; the limit is {self.run_s / CALLS:g} s"
            )
        best_ms = self._best_ms(length)
        if config not in self.defaults and time_ms > best_ms * self.skip_factor:
            return f"{time_ms / best_ms:.1f} times slower than the best at length {length:,}"
        return None

    def _best_ms(self, length: int) -> float:
        times = (r.measurement.time_ms for r in self.shorter.values() if r.problem.query_len == length)
        return min(time_ms for time_ms in times if time_ms is not None)


def _same_but_shorter(record: Record, cell: Cell) -> bool:
    """Same shapes but for the length, and the same pattern but for what follows from the length."""
    length = record.problem.query_len
    shorter = replace(cell.problem, query_len=length, kv_len=length)
    both_longnet = record.pattern == Dilated.longnet(length) and cell.pattern == Dilated.longnet(cell.problem.query_len)
    return (
        record.problem == shorter
        and length < cell.problem.query_len
        and (record.pattern == cell.pattern or both_longnet)
    )
