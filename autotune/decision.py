"""What the selector chose, and why: as data, and as a person reads it."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from autotune.db.records import Record
from autotune.strategies.config import Config
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes, format_ms

# The rungs of the ladder, the most trusted first: this very cell; measured lengths on both sides; the nearest measured
# cell; this device with other software; results that come with the package; the pattern's default. "caller" is beside
# it: what only torch's takes.
Source = Literal["measured", "interpolated", "neighbour", "unverified", "shipped", "default", "caller"]

SHOWN = 6  # rejected alternatives in the text; all are in the data


class NothingFitsError(AutotuneError, MemoryError):
    """No known configuration of the accepted functions fits in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A configuration, or without parameters a whole strategy, that does not run, and why."""

    pattern: Pattern
    config: Config
    reason: str
    predicted_ms: float = math.inf  # as it stays where it failed or is refused
    predicted_memory_bytes: int = 0  # likewise

    @property
    def text(self) -> str:
        """The alternative as a person reads it."""
        what = self.config.text if self.config.params else self.config.strategy
        return f"{what} for {self.pattern.label}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What runs, and why.

    Args:
        problem: what is computed; None where no strategy can be asked, as for empty sequences.
        pattern: the function that is computed.
        config: how.
        source: the rung of the ladder that decided.
        reason: what the choice rests on, in one clause.
        steps: every rung that was tried, in order, with what it said.
        record: the measurement it rests on; the nearer one, where it is interpolated.
        predicted_ms: median time of a call; None if nothing was measured.
        predicted_memory_bytes: peak above the inputs.
        memory_basis: what that rests on; empty if nobody was asked.
        confidence: 1 where the measured lengths on both sides predict the same time, the quotient of their
            predictions otherwise; None where it is not interpolated.
        margin: the next one's predicted time / this one's - 1; below 0 where a tie goes to the winner of the search;
            None without a next one.
        rejected: the alternatives: those that do not fit or may not run, the slower ones, what failed when it was
            measured, and the strategies that cannot do it.
    """

    problem: Problem | None
    pattern: Pattern
    config: Config
    source: Source
    reason: str
    steps: tuple[str, ...] = ()
    record: Record | None = None
    predicted_ms: float | None = None
    predicted_memory_bytes: int
    memory_basis: str = ""
    confidence: float | None = None
    margin: float | None = None
    rejected: tuple[Rejected, ...] = ()

    @property
    def age(self) -> timedelta | None:
        """How long ago the measurement was taken that it rests on."""
        return None if self.record is None else datetime.now(UTC) - self.record.created_at

    @property
    def text(self) -> str:
        """The decision as a person reads it."""
        time = "unknown" if self.predicted_ms is None else format_ms(self.predicted_ms)
        basis = f" ({self.memory_basis})" if self.memory_basis else ""
        lines = [
            f"runs      {self.config.text}",
            f"computes  {self.pattern.label}",
            f"for       {'shapes that only torch takes' if self.problem is None else self.problem.key}",
            f"source    {self.source}: {self.reason}",
            *(f"asked     {step}" for step in self.steps),
            f"predicts  {time}, peak memory {format_bytes(self.predicted_memory_bytes)} above the inputs{basis}",
        ]
        if self.confidence is not None:
            lines.append(f"trust     {self.confidence:.2f}: how far the lengths on both sides agree about the time")
        if self.record is not None:
            lines.append(f"rests on  {_measurement(self.record)}, {_days(self.age)}")
        if self.margin is not None:
            tie = ", a tie that goes to the winner of the search" if self.margin < 0 else ""
            lines.append(f"margin    {self.margin:.1%} over the next{tie}")
        lines.extend(f"rejected  {alternative.text}" for alternative in self.rejected[:SHOWN])
        if len(self.rejected) > SHOWN:
            lines.append(f"rejected  {len(self.rejected) - SHOWN} more")
        return "\n".join(lines)


def _measurement(record: Record) -> str:
    return (
        f"measurement {record.id} of {record.created_at:%Y-%m-%d %H:%M} UTC, "
        f"{len(record.measurement.times_ms)} repeats, torch {record.environment.torch_version}"
    )


def _days(age: timedelta | None) -> str:
    return "today" if age is None or age.days < 1 else f"{age.days:,} days ago"
