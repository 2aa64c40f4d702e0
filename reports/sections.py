"""Sections of a report: what may stand in one table, because device and setting are the same."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from autotune.db.records import Choice, Environment, Rate, Record, Status
from autotune.reports.figures import MISSING
from autotune.reports.rates import best_rates
from autotune.reports.rows import Entry, entries
from autotune.reports.setting import Setting
from autotune.reports.source import Source
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Suite

NOT_RUN = "not run"
TITLE = "Attention benchmark"


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
    rate: Rate | None  # what the device reaches at best in this dtype
    suite: Suite | None

    @cached_property
    def implementations(self) -> dict[str, list[Entry]]:
        """Rows by implementation; those of a suite that is a grid are there without rows if they were never run."""
        found = {name: list(group) for name, group in groupby(self.entries, lambda entry: entry.row.implementation)}
        if self.suite is None or not self.is_grid:
            return found
        places = {entry.row.implementation: entry.place for entry in self.entries}
        ordered: dict[str, list[Entry]] = {}
        for place, each in enumerate(self.suite.implementations):
            names = [name for name in found if places[name] == place] or [each.name]
            ordered |= {name: found.get(name, []) for name in names}
        return ordered

    @property
    def is_grid(self) -> bool:
        """Whether every implementation has its place at every length, so that what is missing was left out."""
        return self.suite is not None and self.suite.is_grid

    @property
    def absent(self) -> str:
        """What stands where an implementation has no row."""
        return NOT_RUN if self.is_grid else MISSING

    @property
    def lengths(self) -> list[int]:
        """Every length that was tried."""
        return sorted({entry.row.seq_len for entry in self.entries})

    @cached_property
    def grid(self) -> list[int]:
        """The lengths that implementations are held against; of a suite, those at which many of them were run.

        Other lengths, as a search for the limit of a single implementation leaves behind, are no omission of the rest.
        """
        if not self.is_grid:
            return self.lengths
        runs = Counter(n for _, n in {(entry.row.implementation, entry.row.seq_len) for entry in self.entries})
        return [n for n in self.lengths if 2 * runs[n] >= max(runs.values())]

    @property
    def failures(self) -> list[Entry]:
        """Every row that is not ok."""
        return [entry for entry in self.entries if entry.row.status != Status.OK]

    @property
    def flagged(self) -> list[Entry]:
        """Every row whose result is not believed."""
        return [entry for entry in self.entries if entry.row.flag]

    def by_length(self, name: str) -> list[tuple[int, Entry | None]]:
        """The row that stands for an implementation at each length; None where one of a suite was not run."""
        group = self.implementations[name]
        lengths = {entry.row.seq_len for entry in group}.union(self.grid if self.is_grid else ())
        return [(n, _representative([entry for entry in group if entry.row.seq_len == n])) for n in sorted(lengths)]

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


def sections(source: Source) -> list[Section]:
    """One section for each environment and setting that has a record.

    What searches settled on is no choice among the rows of a suite, which are given.
    """
    best, found = best_rates(source.rates), []
    for (environment, setting), group in groupby(entries(source), lambda entry: _section(entry.record)):
        made = [] if source.suite else [each for each in source.choices if _section(each) == (environment, setting)]
        latest_last = sorted(made, key=lambda choice: choice.created_at)
        rate = best.get((environment, setting.dtype))
        found.append(
            Section(environment, setting, tuple(group), tuple(latest_last), rate, source.suite_in(environment))
        )
    return found


def title_of(source: Source) -> str:
    """The heading of a report."""
    return source.suite.title if source.suite else TITLE


def nothing(source: Source) -> str:
    """What a report without a row says."""
    command = f"autotune bench --suite {source.suite.name}" if source.suite else "autotune tune"
    return f"No measurements yet: run `{command}`, then ask for the report again."


def fastest(among: Iterable[Entry]) -> Entry | None:
    """The ok entry with the shortest median; None where none was timed."""
    ranked = ((entry.ranked_ms, entry) for entry in among if entry.ranked_ms is not None)
    return min(ranked, key=lambda pair: pair[0], default=(None, None))[1]


def statuses(entries: Iterable[Entry | None]) -> str:
    """How many entries ended how, the most frequent first: ``2 oom, 1 timeout``; None was not run."""
    counts = Counter(NOT_RUN if entry is None else entry.verdict for entry in entries)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair)))


def _representative(entries: list[Entry]) -> Entry | None:
    """The fastest ok entry; else the last that ran; else one that was skipped."""
    ran = [entry for entry in entries if entry.row.status != Status.SKIPPED]
    last = max(ran or entries, key=lambda entry: (entry.row.status == Status.OK, entry.record.id), default=None)
    return fastest(entries) or last


def _section(item: Record | Choice) -> tuple[Environment, Setting]:
    return item.environment, Setting.of(item.problem)
