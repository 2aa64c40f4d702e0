"""What another value of each choice would have cost where a search decided: the winner held against the rest."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from autotune.reports.figures import times
from autotune.reports.rows import Entry
from autotune.reports.sections import Cell, Section
from autotune.strategies.config import Config, Value

CAPTION = (
    "The winner of each search held against the fastest configuration with another value of a choice, whatever its "
    "other parameters; one that was in the winner's race goes first. Same race: a ratio of medians over the rounds "
    "that both ran; a winner that was not the faster there won a tie. Another time: medians of different moments, "
    "which on a shared machine differ for that alone; and what seems faster may have been over the limit on memory."
)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A value of a choice that was measured and not chosen."""

    cell: Cell
    choice: str  # the strategy, or one of its parameters
    chosen: Value
    value: Value
    ratio: float  # time over the winner's
    raced: bool  # whether both times are of one race

    @property
    def measured_in(self) -> str:
        """Which times the ratio is of."""
        return "same race" if self.raced else "another time"

    @property
    def text(self) -> str:
        """The ratio; a winner that was not the faster in their race won a tie."""
        return "tie" if self.raced and self.ratio <= 1 else times(self.ratio)


def alternatives(section: Section) -> list[Alternative]:
    """Those of every cell that was searched, by the winner's choices."""
    return [each for cell in section.cells if cell.choice for each in _of(cell)]


def _of(cell: Cell) -> Iterator[Alternative]:
    winner = cell.winner
    if winner is None or winner.ranked_ms is None:
        return
    ranked = [entry for entry in cell.entries if entry.ranked_ms is not None]
    for choice, chosen in _values(winner.record.config).items():
        found: dict[Value, list[tuple[bool, float]]] = {}
        for entry in ranked:
            value = _values(entry.record.config).get(choice, chosen)
            if value != chosen:
                found.setdefault(value, []).append(_beside(entry, winner))
        best = {value: min(beside) for value, beside in found.items()}  # those of the winner's race go first
        for value, (apart, ratio) in sorted(best.items(), key=lambda pair: pair[1]):
            yield Alternative(cell, choice, chosen, value, ratio, not apart)


def _values(config: Config) -> dict[str, Value]:
    """What a configuration has for each choice; the strategy is the first, and names those that follow."""
    return {"strategy": config.strategy} | {f"{name} of {config.strategy}": value for name, value in config.params}


def _beside(entry: Entry, winner: Entry) -> tuple[bool, float]:
    """Whether two were measured apart, and the time of one over the other's."""
    mine, theirs = entry.record.measurement, winner.record.measurement
    if mine.race is None or mine.race != theirs.race:
        assert entry.ranked_ms is not None
        assert winner.ranked_ms is not None
        return True, entry.ranked_ms / winner.ranked_ms
    rounds = min(len(mine.times_ms), len(theirs.times_ms))  # who is dropped from a race has fewer
    return False, statistics.median(mine.times_ms[:rounds]) / statistics.median(theirs.times_ms[:rounds])
