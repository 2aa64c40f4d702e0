"""Tuning one cell: ask the search, skip or measure, store, decide."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optuna.storages import BaseStorage

from autotune.candidate import Candidate, Race
from autotune.cells import Cell
from autotune.db.records import Environment, Measurement, Record, Status
from autotune.db.store import Store
from autotune.decide import best_config
from autotune.effort import Effort
from autotune.environment import environment_of, free_memory_bytes
from autotune.search import Search
from autotune.skip_rules import SkipRules
from autotune.strategies.config import Config
from autotune.strategies.space import Space
from autotune.strategies.strategy import Strategy
from autotune.worker import Worker

GROWTH_SHARE = 0.9  # of the free memory: past this a candidate's allocations fail
FINALIST_FACTOR = 2.0  # noise on a shared machine; what is slower than this does not win a race


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a search found for one cell."""

    cell: Cell
    tried: Mapping[Config, Measurement]
    best: Config | None
    measured: int  # configurations measured now; the others were known

    @property
    def measurement(self) -> Measurement | None:
        """Of the best configuration."""
        return None if self.best is None else self.tried[self.best]


class Observer:
    """Told what happens during tuning; this one does nothing with it."""

    def cell_started(self, cell: Cell, number: int, total: int, candidates: int) -> None:
        """A cell is searched next; at most ``candidates`` will be measured."""

    def candidate_started(self, config: Config) -> None:
        """A configuration is measured next."""

    def candidate_finished(self, config: Config, measurement: Measurement) -> None:
        """A configuration has been measured, or skipped."""

    def final_started(self, finalists: int) -> None:
        """The fastest few are timed again, in turn."""

    def cell_finished(self, result: CellResult) -> None:
        """A cell is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One tuning run: an open database, a worker, and how hard to try."""

    store: Store
    storage: BaseStorage
    worker: Worker
    run_id: int
    strategies: Mapping[str, Strategy]
    effort: Effort
    memory_limit_bytes: int
    deadline: float  # of the monotonic clock
    observer: Observer

    def tune_cell(self, cell: Cell, number: int, total: int) -> CellResult:
        """Search one cell, its share of the time left; on an interruption too, what is measured is decided upon."""
        environment = environment_of(cell.device)
        records = self.store.records(environment_fingerprint=environment.fingerprint)
        history = _History.of(self, cell, environment, records)
        spaces = {
            name: strategy.space(cell.problem, cell.pattern)
            for name, strategy in self.strategies.items()
            if strategy.unsupported(cell.problem, cell.pattern) is None
        }
        if not spaces:
            for name, strategy in self.strategies.items():
                reason = strategy.unsupported(cell.problem, cell.pattern) or ""
                history.add(Config.of(name), Measurement(status=Status.UNSUPPORTED, reason=reason))
        defaults = [space.default for space in spaces.values()]
        rules = SkipRules.of(cell, self.memory_limit_bytes, self.effort, defaults, records)
        raced: list[Config] = []
        try:
            self._search(history, spaces, rules, number, total)
            raced = self._final(history, defaults[:1])
        finally:
            best = history.decide(raced, defaults[:1])
        result = CellResult(cell, history.tried, best, history.added)
        self.observer.cell_finished(result)
        return result

    def _search(
        self, history: "_History", spaces: Mapping[str, Space], rules: SkipRules, number: int, total: int
    ) -> None:
        cell, known = history.cell, history.conclusive()
        name = f"{cell.problem.key} {cell.pattern.label} on {history.environment.device_name}"
        study = f"{name} {history.environment.fingerprint}"
        search = Search(self.storage, study, spaces, known, self.memory_limit_bytes)
        planned = min(self.effort.trials or search.size, search.size) - len(known)
        now = time.monotonic()
        deadline = now + (self.deadline - now) / (total - number + 1)
        self.observer.cell_started(cell, number, total, max(0, planned))
        for ask in search.asks():
            if planned <= 0 or time.monotonic() >= deadline:
                break
            self.observer.candidate_started(ask.config)
            strategy = self.strategies[ask.config.strategy]
            measurement = rules.verdict(strategy, ask.config) or self._measure(history, strategy, ask.config)
            planned -= measurement.status is not Status.SKIPPED
            history.add(ask.config, measurement)
            search.tell(ask, measurement)
            self.observer.candidate_finished(ask.config, measurement)

    def _measure(self, history: "_History", strategy: Strategy, config: Config) -> Measurement:
        measurement = self.worker.measure(self._candidate(history, config))
        predicted = strategy.memory_bytes(history.cell.problem, history.cell.pattern, config)
        return replace(measurement, predicted_memory_bytes=predicted)

    def _final(self, history: "_History", defaults: Collection[Config]) -> list[Config]:
        """Race the fastest few in turn, for medians taken minutes apart on a shared machine do not compare.

        The default is always among them, so that no pick is slower than it.
        """
        finalists = history.fastest(self.effort.finalists, defaults)
        if len(finalists) < 2 or not history.added or time.monotonic() >= self.deadline:
            return []
        candidates = tuple(self._candidate(history, config) for config in finalists)
        contest = Race(candidates=candidates, rounds=self.effort.rounds, budget_s=self.effort.race_s)
        self.observer.final_started(len(finalists))
        times = self.worker.race(contest)
        for config, times_ms in zip(finalists, times, strict=False):
            history.add(config, replace(history.tried[config], times_ms=times_ms))
            self.observer.candidate_finished(config, history.tried[config])
        return finalists if times else []

    def _candidate(self, history: "_History", config: Config) -> Candidate:
        cell, best_ms = history.cell, history.best_ms()
        return Candidate(
            device=str(cell.device),
            problem=cell.problem,
            pattern=cell.pattern,
            strategy=self.strategies[config.strategy],
            config=config,
            threads=history.environment.threads,
            growth_limit_bytes=int(GROWTH_SHARE * free_memory_bytes(cell.device)),
            timing_budget_s=self.effort.timing_budget_s,
            drop_over_ms=None if best_ms is None else best_ms * self.effort.drop_factor,
        )


@dataclass(slots=True)
class _History:
    """What is known about a cell, from the database and from this run."""

    session: Session
    cell: Cell
    environment: Environment
    tried: dict[Config, Measurement] = field(default_factory=dict)
    ids: dict[Config, int] = field(default_factory=dict)
    added: int = 0

    @classmethod
    def of(cls, session: Session, cell: Cell, environment: Environment, records: Sequence[Record]) -> "_History":
        history = cls(session, cell, environment)
        for record in records:
            if (record.problem, record.pattern) == (cell.problem, cell.pattern):
                history.tried[record.config] = record.measurement
                history.ids[record.config] = record.id
        return history

    def conclusive(self) -> dict[Config, Measurement]:
        """What need not be measured again; a skip is looked at anew, for the limits may have changed."""
        return {config: m for config, m in self.tried.items() if m.status is not Status.SKIPPED}

    def best_ms(self) -> float | None:
        """The fastest median so far."""
        return min((m.time_ms for m in self.tried.values() if m.status is Status.OK and m.time_ms), default=None)

    def fastest(self, count: int, defaults: Collection[Config]) -> list[Config]:
        """The defaults, and the fastest others that fit, as far as they are near enough to win a race."""
        limit, best_ms = self.session.memory_limit_bytes, self.best_ms()
        times = {
            config: m.time_ms
            for config, m in self.tried.items()
            if m.status is Status.OK and m.time_ms and (m.peak_memory_bytes or 0) <= limit
        }
        near = [config for config, time_ms in times.items() if best_ms and time_ms <= best_ms * FINALIST_FACTOR]
        return sorted(near, key=lambda config: (config not in defaults, times[config]))[:count]

    def add(self, config: Config, measurement: Measurement) -> None:
        """Store a measurement, unless it is the skip that is already stored."""
        if self.tried.get(config) == measurement:
            return
        self.ids[config] = self.session.store.add(
            self.session.run_id, self.environment, self.cell.problem, self.cell.pattern, config, measurement
        )
        self.tried[config] = measurement
        self.added += 1

    def decide(self, raced: Collection[Config], defaults: Collection[Config]) -> Config | None:
        """Choose among the finalists, or all if there was no race, and store the choice if anything is new."""
        contenders = {config: m for config, m in self.tried.items() if not raced or config in raced}
        choice = best_config(contenders, self.session.memory_limit_bytes, defaults)
        if choice is None:
            return None
        if self.added:
            self.session.store.decide(
                self.environment,
                self.cell.problem,
                self.cell.pattern,
                choice.config,
                self.ids[choice.config],
                choice.margin,
                len(self.tried),
            )
        return choice.config
