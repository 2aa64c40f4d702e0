"""The run-time choice: the fastest known configuration that fits, and why."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from autotune.db.records import Environment, Record, Status
from autotune.strategies.catalog import STRATEGIES, default_config
from autotune.strategies.config import Config
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes, format_ms

# This very cell; the nearest measured one; nothing measured; options that only torch's own attention takes.
Source = Literal["measured", "neighbour", "default", "caller"]


class NothingFitsError(AutotuneError, MemoryError):
    """No known configuration of the accepted functions fits in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What runs, and why."""

    problem: Problem
    pattern: Pattern
    config: Config
    source: Source
    reason: str
    record: Record | None = None  # the measurement it rests on
    predicted_ms: float | None = None
    predicted_memory_bytes: int
    margin: float | None = None  # of the predicted times: the next one's / this one's - 1
    rejected: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The decision as a person reads it."""
        time = "unknown" if self.predicted_ms is None else format_ms(self.predicted_ms)
        lines = [
            f"runs      {self.config.text}",
            f"computes  {self.pattern.label}",
            f"for       {self.problem.key}",
            f"source    {self.source}: {self.reason}",
            f"predicts  {time}, peak memory {format_bytes(self.predicted_memory_bytes)} above the inputs",
        ]
        if self.record is not None:
            taken = self.record
            lines.append(
                f"rests on  measurement {taken.id} of {taken.created_at:%Y-%m-%d %H:%M} UTC, "
                f"{len(taken.measurement.times_ms)} repeats, torch {taken.environment.torch_version}"
            )
        if self.margin is not None:
            lines.append(f"margin    {self.margin:.1%} over the next")
        lines.extend(f"rejected  {line}" for line in self.rejected)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Option:
    """A configuration that could run, with what is predicted of it for the problem at hand."""

    pattern: Pattern
    config: Config
    record: Record
    exact: bool
    time_ms: float
    memory_bytes: int

    @property
    def name(self) -> str:
        return f"{self.config.text} for {self.pattern.label}"


class Selector:
    """An immutable table of what was measured on one device with this software."""

    def __init__(self, environment: Environment, records: Iterable[Record]) -> None:
        latest = {
            (record.problem, record.pattern, record.config): record
            for record in records
            if record.environment.fingerprint == environment.fingerprint
        }
        self._cells: dict[tuple[Problem, Pattern], list[Record]] = {}
        for (problem, pattern, _), record in latest.items():
            if record.measurement.status is Status.OK and record.measurement.time_ms:
                self._cells.setdefault((problem, pattern), []).append(record)

    def choose(self, problem: Problem, patterns: Sequence[Pattern], memory_limit_bytes: int) -> Decision:
        """The fastest configuration of any accepted pattern that fits.

        Args:
            problem: what is to be computed.
            patterns: the functions the caller accepts, the preferred one first.
            memory_limit_bytes: what a call may take above its inputs.

        Raises:
            NothingFitsError: no known configuration fits.
            UnsupportedError: nothing is known of the patterns, and no strategy can do them.
        """
        options = [option for pattern in patterns for option in self._options(problem, pattern)]
        if not options:
            return self._default(problem, patterns, memory_limit_bytes)
        options.sort(key=lambda option: option.time_ms)
        fitting = [option for option in options if option.memory_bytes <= memory_limit_bytes]
        too_large = [option for option in options if option.memory_bytes > memory_limit_bytes]
        limit = format_bytes(memory_limit_bytes)
        if not fitting:
            need = min(option.memory_bytes for option in options)
            raise NothingFitsError(
                f"memory limit is {limit}, but the most frugal known configuration of the accepted patterns needs "
                f"{format_bytes(need)}; raise the limit, free memory or accept another pattern"
            )
        best, *slower = fitting
        rejected = [f"{o.name}: needs {format_bytes(o.memory_bytes)}, limit {limit}" for o in too_large]
        rejected += [f"{o.name}: {format_ms(o.time_ms)}" for o in slower]
        return Decision(
            problem=problem,
            pattern=best.pattern,
            config=best.config,
            source="measured" if best.exact else "neighbour",
            reason="fastest stored for this very problem" if best.exact else f"fastest at {best.record.problem.key}",
            record=best.record,
            predicted_ms=best.time_ms,
            predicted_memory_bytes=best.memory_bytes,
            margin=slower[0].time_ms / best.time_ms - 1 if slower else None,
            rejected=tuple(rejected),
        )

    def _options(self, problem: Problem, pattern: Pattern) -> list[_Option]:
        """Measured configurations of this cell, else of the nearest one, that can do the problem."""
        pattern.validate(problem)
        if (problem, pattern) in self._cells:
            return [_measured(record, pattern) for record in self._cells[problem, pattern]]
        near = [
            (distance, records)
            for (other, other_pattern), records in self._cells.items()
            if (distance := _distance(problem, pattern, other, other_pattern)) is not None
        ]
        for _, records in sorted(near, key=lambda cell: cell[0]):
            if options := [_scaled(record, problem, pattern) for record in records if _can(record, problem, pattern)]:
                return options
        return []

    def _default(self, problem: Problem, patterns: Sequence[Pattern], memory_limit_bytes: int) -> Decision:
        for pattern in patterns:
            pattern.validate(problem)
            config = default_config(problem, pattern)
            need = STRATEGIES[config.strategy].memory_bytes(problem, pattern, config)
            if need <= memory_limit_bytes:
                return Decision(
                    problem=problem,
                    pattern=pattern,
                    config=config,
                    source="default",
                    reason="nothing is tuned for this device and pattern; run `autotune tune`",
                    predicted_memory_bytes=need,
                )
        raise NothingFitsError(
            f"memory limit is {format_bytes(memory_limit_bytes)}, but no default of the accepted patterns is estimated "
            "to fit, and nothing is tuned; raise the limit or run `autotune tune`"
        )


def _measured(record: Record, pattern: Pattern) -> _Option:
    measurement = record.measurement
    assert measurement.time_ms is not None
    return _Option(pattern, record.config, record, True, measurement.time_ms, measurement.peak_memory_bytes or 0)


def _scaled(record: Record, problem: Problem, pattern: Pattern) -> _Option:
    """Time in proportion to the arithmetic, memory in proportion to the estimate."""
    assert record.measurement.time_ms is not None
    strategy = STRATEGIES[record.config.strategy]
    arithmetic = pattern.flops(problem) / record.pattern.flops(record.problem)
    estimate = strategy.memory_bytes(problem, pattern, record.config)
    known = strategy.memory_bytes(record.problem, record.pattern, record.config)
    error = max(1.0, (record.measurement.peak_memory_bytes or 0) / known)
    time_ms = record.measurement.time_ms * arithmetic
    return _Option(pattern, record.config, record, False, time_ms, int(estimate * error))


def _can(record: Record, problem: Problem, pattern: Pattern) -> bool:
    strategy = STRATEGIES.get(record.config.strategy)
    return strategy is not None and strategy.unsupported(problem, pattern) is None


def _distance(problem: Problem, pattern: Pattern, other: Problem, other_pattern: Pattern) -> float | None:
    """How far a measured cell is from the one wanted; None if it says nothing about it."""
    if type(pattern) is not type(other_pattern) or problem.dtype != other.dtype or problem.device != other.device:
        return None
    sizes = ("query_len", "kv_len", "batch", "heads", "kv_heads", "head_dim")
    distance = sum(abs(math.log2(getattr(problem, name) / getattr(other, name))) for name in sizes)
    distance += 4.0 * (problem.direction != other.direction) + 2.0 * (problem.causal != other.causal)
    return distance + 0.5 * (pattern != other_pattern)
