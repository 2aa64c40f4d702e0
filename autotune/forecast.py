"""How long a call will take, from the same implementation at another length."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Status
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Suite

MONOTONE = (Status.OOM, Status.TIMEOUT)  # what failed like this at a length fails at every longer one


@dataclass(frozen=True, slots=True)
class Known:
    """What an implementation did at some length."""

    problem: Problem
    pattern: Pattern
    measurement: Measurement

    @property
    def length(self) -> int:
        """Of the keys."""
        return self.problem.kv_len

    @property
    def time_ms(self) -> float | None:
        """Its median; None unless it is ok, for a wrong result may be as fast as it likes."""
        return self.measurement.time_ms if self.measurement.status is Status.OK else None

    def predicted_ms(self, cell: Cell) -> float | None:
        """Time at another length, growing with the operations of the function; None if it was not timed."""
        if (time_ms := self.time_ms) is None:
            return None
        return time_ms * cell.pattern.flops(cell.problem) / self.pattern.flops(self.problem)


def same_kind(record: Record, cell: Cell) -> bool:
    """Whether a record is of the cell's shapes but for the length, and its pattern but for what follows from that."""
    length = record.problem.query_len
    alike = replace(cell.problem, query_len=length, kv_len=length)
    both_longnet = record.pattern == Dilated.longnet(length) and cell.pattern == Dilated.longnet(cell.problem.query_len)
    return record.problem == alike and (record.pattern == cell.pattern or both_longnet)


@dataclass(slots=True)
class Forecast:
    """What each implementation of a suite did at the longest length where it was tried.

    One that computes several functions is followed for each kind of pattern by itself, and so is each direction.
    """

    suite: Suite
    known: dict[tuple[str, str, str], Known] = field(default_factory=dict)

    def learn(self, records: Iterable[Record]) -> None:
        """Take in what is stored."""
        for record in records:
            name = self.suite.name_of(record.problem, record.pattern, record.config)
            if name is not None:
                self.note(name, Known(record.problem, record.pattern, record.measurement))

    def note(self, name: str, known: Known) -> None:
        """Take in a measurement that tells something of other lengths: a time, or that it took too much."""
        longest = self.of(name, known.problem, known.pattern)
        telling = known.time_ms is not None or known.measurement.status in MONOTONE
        if telling and (longest is None or longest.length <= known.length):
            self.known[name, known.pattern.kind, known.problem.direction] = known

    def of(self, name: str, problem: Problem, pattern: Pattern) -> Known | None:
        """What tells of an implementation in a cell; None if nothing does."""
        return self.known.get((name, pattern.kind, problem.direction))

    def predicted_ms(self, name: str, cell: Cell) -> float | None:
        """Time of an implementation in a cell; None if nothing is known."""
        known = self.of(name, cell.problem, cell.pattern)
        return None if known is None else known.predicted_ms(cell)
