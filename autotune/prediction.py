"""What measured cells say of a problem: its own cell, lengths on both sides, or the nearest cell."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from autotune.calibration import Calibrations, Prediction, estimated_bytes
from autotune.db.records import Choice, Record, Status
from autotune.strategies.catalog import refusal
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

UNTRUSTED = (Status.WRONG_RESULT, Status.CRASHED)


class Cell(NamedTuple):
    """What was measured together."""

    problem: Problem
    pattern: Pattern

    @property
    def shape(self) -> tuple[object, ...]:
        """What cells have in common that differ in length only, or in the parameters of a pattern."""
        one = self.problem
        sizes = (one.batch, one.heads, one.kv_heads, one.head_dim)
        return (type(self.pattern), *sizes, one.dtype, one.causal, one.direction, one.device, one.kv_home)


@dataclass(frozen=True, slots=True)
class Option:
    """A configuration that could run, with what is predicted of it for the problem at hand."""

    pattern: Pattern
    config: Config
    record: Record  # the nearer one, where there are two
    won: float  # share of the cells it rests on whose search it won
    time_ms: float
    memory: Prediction
    confidence: float | None = None  # see `Decision`


class Evidence:
    """The cells measured on one device with one software: what ran, what is not to be trusted, what won."""

    def __init__(self, records: Iterable[Record], choices: Iterable[Choice] = ()) -> None:
        latest = {(record.problem, record.pattern, record.config): record for record in records}
        self._chosen = {Cell(choice.problem, choice.pattern): choice.config for choice in choices}
        self._cells: dict[Cell, dict[Config, Record]] = {}
        self._failed: dict[Cell, dict[Config, Record]] = {}
        self._of_shape: dict[tuple[object, ...], list[Cell]] = {}
        self._calibrations = Calibrations(latest.values())
        for record in latest.values():
            cell, measurement = Cell(record.problem, record.pattern), record.measurement
            if measurement.status is Status.OK and (measurement.time_ms or 0.0) > 0:
                self._cells.setdefault(cell, {})[record.config] = record
            elif measurement.status not in (Status.OK, Status.SKIPPED):
                self._failed.setdefault(cell, {})[record.config] = record
        for cell in self._cells:
            self._of_shape.setdefault(cell.shape, []).append(cell)

    def __len__(self) -> int:
        return len(self._cells)

    def measured(self, problem: Problem, pattern: Pattern) -> list[Option]:
        """What was measured in this very cell."""
        records = self._cells.get(Cell(problem, pattern), {})
        return [self._as_measured(record) for record in _able(records, problem, pattern).values()]

    def interpolated(self, problem: Problem, pattern: Pattern) -> list[Option]:
        """What lengths on both sides predict; nothing if no configuration was measured on both."""
        below, above = self._around(problem, pattern)
        if below is None or above is None:
            return []
        doubtful = self._untrusted(below) | self._untrusted(above)
        low, high = (_trusted(_able(self._cells[cell], problem, pattern), doubtful) for cell in (below, above))
        both = {config: self._between(low[config], high[config], problem, pattern) for config in low if config in high}
        if not both:
            return []
        beside = [
            self._beside(side[config], side, both, problem)
            for side in (low, high)
            for config in side
            if config not in both
        ]
        return [*both.values(), *beside]

    def neighbour(self, problem: Problem, pattern: Pattern) -> list[Option]:
        """What the nearest other cell with an able configuration predicts."""
        own = Cell(problem, pattern)
        others = [cell for cell in self._cells if cell != own]
        near = [(distance, cell) for cell in others if (distance := _distance(problem, pattern, cell)) is not None]
        for _, cell in sorted(near, key=lambda pair: pair[0]):
            if able := _able(self._cells[cell], problem, pattern):
                return [self._scaled(record, problem, pattern) for record in able.values()]
        return []

    def failures(self, problem: Problem, pattern: Pattern) -> dict[Config, Record]:
        """What did not do when it was measured in this very cell."""
        return self._failed.get(Cell(problem, pattern), {})

    def _untrusted(self, cell: Cell) -> set[Config]:
        failed = self._failed.get(cell, {})
        return {config for config, record in failed.items() if record.measurement.status in UNTRUSTED}

    def _around(self, problem: Problem, pattern: Pattern) -> tuple[Cell | None, Cell | None]:
        """The nearest cells below and above that differ in length only; of the same kind where none is the same.

        Both lengths differ alike, as between self-attentions; or only the number of keys does, as when decoding.
        """
        cells = self._of_shape.get(Cell(problem, pattern).shape, [])
        lengths, keys = problem.query_len, problem.kv_len
        alike = [cell for cell in cells if cell.problem.query_len * keys == cell.problem.kv_len * lengths]
        decoding = [cell for cell in cells if cell.problem.query_len == lengths]
        same = ([cell for cell in group if cell.pattern == pattern] for group in (alike, decoding))
        for cells in (*same, alike, decoding):
            below = [cell for cell in cells if cell.problem.kv_len < problem.kv_len]
            above = [cell for cell in cells if cell.problem.kv_len > problem.kv_len]
            if below and above:
                return max(below, key=_length), min(above, key=_length)
        return None, None

    def _beside(
        self, record: Record, side: Mapping[Config, Record], both: Mapping[Config, Option], problem: Problem
    ) -> Option:
        """Measured on one side only: as far from the fastest of those measured on both as it was there.

        By arithmetic alone it would seem too fast, for what a call costs besides does not shrink with the length.
        """
        nearest = min(both, key=lambda other: _time_ms(side[other]))
        reference = both[nearest]
        scaled = self._scaled(record, problem, reference.pattern)
        return replace(
            scaled,
            won=scaled.won / 2,
            time_ms=reference.time_ms * _time_ms(record) / _time_ms(side[nearest]),
            confidence=reference.confidence,
        )

    def _between(self, low: Record, high: Record, problem: Problem, pattern: Pattern) -> Option:
        """A power law of time over arithmetic through both measurements."""
        ends = [self._scaled(record, problem, pattern) for record in (low, high)]
        low_flops, high_flops = _flops(low.problem, low.pattern), _flops(high.problem, high.pattern)
        nearness = _position(_flops(problem, pattern), low_flops, high_flops)
        first, second = (math.log(option.time_ms) for option in ends)
        return replace(
            ends[nearness > 0.5],
            won=(ends[0].won + ends[1].won) / 2,
            time_ms=math.exp(first + nearness * (second - first)),
            confidence=math.exp(-abs(first - second)),
        )

    def _as_measured(self, record: Record) -> Option:
        measurement, peak = record.measurement, record.measurement.peak_memory_bytes
        assert measurement.time_ms is not None
        return Option(
            pattern=record.pattern,
            config=record.config,
            record=record,
            won=float(self._chosen.get(Cell(record.problem, record.pattern)) == record.config),
            time_ms=measurement.time_ms,
            # A call too small to be seen took none, which is no statement about a limit.
            memory=Prediction(peak, "measured") if peak else self.memory(record.problem, record.pattern, record.config),
        )

    def _scaled(self, record: Record, problem: Problem, pattern: Pattern) -> Option:
        """Time in proportion to the arithmetic, memory by the calibrated estimate."""
        measured = self._as_measured(record)
        return replace(
            measured,
            pattern=pattern,
            time_ms=measured.time_ms * _flops(problem, pattern) / _flops(record.problem, record.pattern),
            memory=self.memory(problem, pattern, record.config),
        )

    def memory(self, problem: Problem, pattern: Pattern, config: Config) -> Prediction:
        """What a configuration takes that has not been measured for the problem."""
        return self._calibrations.predicted(problem, config, estimated_bytes(problem, pattern, config))


def _time_ms(record: Record) -> float:
    assert record.measurement.time_ms is not None
    return record.measurement.time_ms


def _trusted(records: Mapping[Config, Record], doubtful: set[Config]) -> dict[Config, Record]:
    return {config: record for config, record in records.items() if config not in doubtful}


def _length(cell: Cell) -> int:
    return cell.problem.kv_len


@lru_cache(maxsize=4096)
def _flops(problem: Problem, pattern: Pattern) -> float:
    return pattern.flops(problem)


def _position(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, on a logarithmic scale; 0 at the lower, 1 at the higher one.

    >>> _position(20.0, 10.0, 40.0)
    0.5
    """
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _able(records: Mapping[Config, Record], problem: Problem, pattern: Pattern) -> dict[Config, Record]:
    """Those whose configuration can do the problem."""
    return {config: record for config, record in records.items() if refusal(problem, pattern, config) is None}


def _distance(problem: Problem, pattern: Pattern, cell: Cell) -> float | None:
    """How far a measured cell is from the one wanted; None if it says nothing about it."""
    other = cell.problem
    if type(pattern) is not type(cell.pattern):
        return None
    if (problem.dtype, problem.device, problem.kv_home) != (other.dtype, other.device, other.kv_home):
        return None
    sizes: Sequence[str] = ("query_len", "kv_len", "batch", "heads", "kv_heads", "head_dim")
    distance = sum(abs(math.log2(getattr(problem, name) / getattr(other, name))) for name in sizes)
    distance += 4.0 * (problem.direction != other.direction) + 2.0 * (problem.causal != other.causal)
    return distance + 0.5 * (pattern != cell.pattern)
