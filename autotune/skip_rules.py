"""Why a candidate is not worth running, said before it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Status
from autotune.strategies.config import Config
from autotune.strategies.strategy import Strategy
from autotune.units import format_bytes

MONOTONE = (Status.OOM, Status.TIMEOUT)  # what failed like this at a length fails at every longer one


@dataclass(frozen=True, slots=True)
class SkipRules:
    """The rules for one cell."""

    cell: Cell
    memory_limit_bytes: int
    failed_shorter: Mapping[Config, Record]

    @classmethod
    def of(cls, cell: Cell, memory_limit_bytes: int, records: Iterable[Record]) -> "SkipRules":
        """Look for failures of the same kind of problem at shorter lengths."""
        failed = {
            record.config: record
            for record in records
            if record.measurement.status in MONOTONE and _same_but_shorter(record, cell)
        }
        return cls(cell, memory_limit_bytes, failed)

    def verdict(self, strategy: Strategy, config: Config) -> Measurement | None:
        """A ``skipped`` measurement with the rule, or None to run the candidate."""
        predicted = strategy.memory_bytes(self.cell.problem, self.cell.pattern, config)
        if predicted > self.memory_limit_bytes:
            need, limit = format_bytes(predicted), format_bytes(self.memory_limit_bytes)
            return _skipped(f"predicted peak memory {need} is over the limit, {limit}", predicted)
        if (record := self.failed_shorter.get(config)) is not None:
            length = record.problem.query_len
            return _skipped(f"{record.measurement.status} already at length {length:,}", predicted)
        return None


def _skipped(reason: str, predicted: int) -> Measurement:
    return Measurement(status=Status.SKIPPED, reason=reason, predicted_memory_bytes=predicted)


def _same_but_shorter(record: Record, cell: Cell) -> bool:
    shorter = replace(cell.problem, query_len=record.problem.query_len, kv_len=record.problem.kv_len)
    return (
        record.problem == shorter
        and type(record.pattern) is type(cell.pattern)
        and record.problem.query_len < cell.problem.query_len
    )
