"""Sections of a report: what may stand in one table, because device and setting are the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from autotune.db.records import Choice, Environment, Record, Status
from autotune.reports.rows import Entry, entries
from autotune.reports.setting import Setting
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.problem import Problem

EMPTY = "No measurements yet: run `autotune tune`, then ask for the report again."


@dataclass(frozen=True)
class Cell:
    """One function at one length: what a search chooses a configuration for."""

    problem: Problem
    pattern: Pattern
    entries: tuple[Entry, ...]
    choice: Choice | None  # None where nothing was searched

    @property
    def seq_len(self) -> int:
        """The length of the cell."""
        return self.problem.kv_len

    @property
    def winner(self) -> Entry | None:
        """What the search chose; the fastest ok configuration where nothing was searched."""
        if self.choice is None:
            return fastest(self.entries)
        chosen = self.choice.config
        return next((entry for entry in self.entries if entry.record.config == chosen), None)


@dataclass(frozen=True)
class Section:
    """All rows of one environment and setting, in order."""

    environment: Environment
    setting: Setting
    entries: tuple[Entry, ...]
    choices: tuple[Choice, ...]

    @cached_property
    def implementations(self) -> dict[str, list[Entry]]:
        """Rows by implementation."""
        return {name: list(group) for name, group in groupby(self.entries, lambda entry: entry.row.implementation)}

    @property
    def lengths(self) -> list[int]:
        """Every length that was tried."""
        return sorted({entry.row.seq_len for entry in self.entries})

    @property
    def failures(self) -> list[Entry]:
        """Every row that is not ok."""
        return [entry for entry in self.entries if entry.row.status != Status.OK]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every function and length, by length."""
        latest = {(choice.problem, choice.pattern): choice for choice in self.choices}
        found: dict[tuple[Problem, Pattern], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.record.problem, entry.record.pattern), []).append(entry)
        cells = [Cell(*key, tuple(group), latest.get(key)) for key, group in found.items()]
        return sorted(cells, key=lambda cell: (cell.seq_len, cell.pattern.kind, cell.pattern.key))

    @cached_property
    def fastest_dense(self) -> dict[int, Entry]:
        """The fastest exact attention at each length that has one."""
        dense = [entry for entry in self.entries if isinstance(entry.record.pattern, Dense)]
        best = {n: fastest(entry for entry in dense if entry.row.seq_len == n) for n in self.lengths}
        return {n: entry for n, entry in best.items() if entry is not None}

    def speed_up(self, entry: Entry | None) -> float | None:
        """How many times as fast as the fastest exact attention at the same length; None where either has no time."""
        dense = None if entry is None else self.fastest_dense.get(entry.row.seq_len)
        if entry is None or dense is None or entry.ranked_ms is None or dense.ranked_ms is None:
            return None
        return dense.ranked_ms / entry.ranked_ms


def sections(records: Sequence[Record], choices: Sequence[Choice]) -> list[Section]:
    """One section for each environment and setting that has a record."""
    found = []
    for (environment, setting), group in groupby(entries(records), lambda entry: _section(entry.record)):
        made = [choice for choice in choices if _section(choice) == (environment, setting)]
        latest_last = sorted(made, key=lambda choice: choice.created_at)
        found.append(Section(environment, setting, tuple(group), tuple(latest_last)))
    return found


def fastest(among: Iterable[Entry]) -> Entry | None:
    """The ok entry with the shortest median; None where none was timed."""
    ranked = ((entry.ranked_ms, entry) for entry in among if entry.ranked_ms is not None)
    return min(ranked, key=lambda pair: pair[0], default=(None, None))[1]


def statuses(entries: Iterable[Entry]) -> str:
    """How many entries ended how, the most frequent first: ``2 oom, 1 timeout``."""
    counts = Counter(entry.row.status for entry in entries)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair)))


def _section(item: Record | Choice) -> tuple[Environment, Setting]:
    return item.environment, Setting.of(item.problem)
