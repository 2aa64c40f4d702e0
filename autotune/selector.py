"""The run-time choice: the fastest known configuration that fits, and why."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autotune.db.records import Choice, Environment, Record, Status
from autotune.strategies.catalog import STRATEGIES, default_config, refusal
from autotune.strategies.config import Config
from autotune.strategies.errors import AutotuneError, PatternError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes, format_ms

# This very cell; the nearest measured one; nothing measured; options that only torch's own attention takes.
Source = Literal["measured", "neighbour", "default", "caller"]


SHOWN = 6  # rejected alternatives in the text; all are in the data


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
            margin = "tie" if self.margin <= 0 else f"{self.margin:.1%}"
            lines.append(f"margin    {margin} over the next")
        lines.extend(f"rejected  {line}" for line in self.rejected[:SHOWN])
        if len(self.rejected) > SHOWN:
            lines.append(f"rejected  {len(self.rejected) - SHOWN} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Option:
    """A configuration that could run, with what is predicted of it for the problem at hand."""

    pattern: Pattern
    config: Config
    record: Record
    exact: bool
    chosen: bool  # it won the search of its cell
    time_ms: float
    memory_bytes: int

    @property
    def name(self) -> str:
        return f"{self.config.text} for {self.pattern.label}"


class Selector:
    """An immutable table of what was measured on one device with this software."""

    def __init__(self, environment: Environment, records: Iterable[Record], choices: Iterable[Choice] = ()) -> None:
        self._chosen = {
            (choice.problem, choice.pattern): choice.config
            for choice in choices
            if choice.environment.fingerprint == environment.fingerprint
        }
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
            PatternError: no accepted pattern is defined for the problem.
            UnsupportedError: nothing is known of the patterns, and no strategy can do them.
        """
        patterns = _applicable(problem, patterns)
        options = [option for pattern in patterns for option in self._options(problem, pattern)]
        if not options:
            return self._default(problem, patterns, memory_limit_bytes)
        fitting = [option for option in options if option.memory_bytes <= memory_limit_bytes]
        too_large = [option for option in options if option.memory_bytes > memory_limit_bytes]
        limit = format_bytes(memory_limit_bytes)
        if not fitting:
            need = min(option.memory_bytes for option in options)
            raise NothingFitsError(
                f"memory limit is {limit}, but the most frugal known configuration of the accepted patterns needs "
                f"{format_bytes(need)}; raise the limit, free memory or accept another pattern"
            )
        best = min(_leaders(fitting), key=lambda option: option.time_ms)
        slower = sorted((option for option in fitting if option != best), key=lambda option: option.time_ms)
        rejected = [f"{o.name}: needs {format_bytes(o.memory_bytes)}, limit {limit}" for o in too_large]
        rejected += [f"{o.name}: {format_ms(o.time_ms)}" for o in slower]
        return Decision(
            problem=problem,
            pattern=best.pattern,
            config=best.config,
            source="measured" if best.exact else "neighbour",
            reason=_basis(best),
            record=best.record,
            predicted_ms=best.time_ms,
            predicted_memory_bytes=best.memory_bytes,
            margin=slower[0].time_ms / best.time_ms - 1 if slower else None,
            rejected=tuple(rejected),
        )

    def _options(self, problem: Problem, pattern: Pattern) -> list[_Option]:
        """Measured configurations of this cell, else of the nearest one, that can do the problem."""
        if here := _able(self._cells.get((problem, pattern), ()), problem, pattern):
            return [self._measured(record) for record in here]
        near = [
            (distance, records)
            for (other, other_pattern), records in self._cells.items()
            if (distance := _distance(problem, pattern, other, other_pattern)) is not None
        ]
        for _, records in sorted(near, key=lambda cell: cell[0]):
            if able := _able(records, problem, pattern):
                return [self._scaled(record, problem, pattern) for record in able]
        return []

    def _measured(self, record: Record) -> _Option:
        measurement = record.measurement
        assert measurement.time_ms is not None
        return _Option(
            pattern=record.pattern,
            config=record.config,
            record=record,
            exact=True,
            chosen=self._won(record),
            time_ms=measurement.time_ms,
            memory_bytes=measurement.peak_memory_bytes or 0,
        )

    def _scaled(self, record: Record, problem: Problem, pattern: Pattern) -> _Option:
        """Time in proportion to the arithmetic, memory in proportion to the estimate."""
        measured = self._measured(record)
        strategy = STRATEGIES[record.config.strategy]
        arithmetic = pattern.flops(problem) / record.pattern.flops(record.problem)
        estimate = strategy.memory_bytes(problem, pattern, record.config)
        known = strategy.memory_bytes(record.problem, record.pattern, record.config)
        return replace(
            measured,
            pattern=pattern,
            exact=False,
            time_ms=measured.time_ms * arithmetic,
            memory_bytes=int(estimate * max(1.0, measured.memory_bytes / known)),
        )

    def _won(self, record: Record) -> bool:
        return self._chosen.get((record.problem, record.pattern)) == record.config

    def _default(self, problem: Problem, patterns: Sequence[Pattern], memory_limit_bytes: int) -> Decision:
        for pattern in patterns:
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


def _basis(option: _Option) -> str:
    """What a choice rests on."""
    rank = "won the search" if option.chosen else "fastest stored that fits"
    return f"{rank} at {option.record.problem.key}{'' if option.exact else ', scaled by arithmetic'}"


def _leaders(options: Sequence[_Option]) -> list[_Option]:
    """The best option of each pattern: the winner of its search if it is among them, else the fastest."""
    leaders: dict[Pattern, _Option] = {}
    for option in sorted(options, key=lambda option: (not option.chosen, option.time_ms)):
        leaders.setdefault(option.pattern, option)
    return list(leaders.values())


def _able(records: Iterable[Record], problem: Problem, pattern: Pattern) -> list[Record]:
    """Those whose configuration can do the problem."""
    return [record for record in records if refusal(problem, pattern, record.config) is None]


def _applicable(problem: Problem, patterns: Sequence[Pattern]) -> list[Pattern]:
    """The patterns that are defined for the problem.

    Raises:
        PatternError: none is.
    """
    if not patterns:
        raise PatternError("accept is empty, but must name at least one pattern, such as Dense()")
    applicable: list[Pattern] = []
    refused: list[PatternError] = []
    for pattern in patterns:
        if not isinstance(pattern, Pattern):
            raise PatternError(f"pattern is {pattern!r}, but must be a pattern, such as Dense()")
        try:
            pattern.validate(problem)
            applicable.append(pattern)
        except PatternError as error:
            refused.append(error)
    if not applicable:
        raise refused[0]
    return applicable


def _distance(problem: Problem, pattern: Pattern, other: Problem, other_pattern: Pattern) -> float | None:
    """How far a measured cell is from the one wanted; None if it says nothing about it."""
    if type(pattern) is not type(other_pattern) or problem.dtype != other.dtype or problem.device != other.device:
        return None
    sizes = ("query_len", "kv_len", "batch", "heads", "kv_heads", "head_dim")
    distance = sum(abs(math.log2(getattr(problem, name) / getattr(other, name))) for name in sizes)
    distance += 4.0 * (problem.direction != other.direction) + 2.0 * (problem.causal != other.causal)
    return distance + 0.5 * (pattern != other_pattern)
