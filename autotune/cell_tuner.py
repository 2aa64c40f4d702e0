"""Tuning one cell: ask the search, skip or measure, store, decide."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from uuid import uuid4

from optuna.storages import BaseStorage

from autotune.candidate import Candidate, Race
from autotune.cells import Cell
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.decide import best_config
from autotune.device_rates import DevicePeak
from autotune.effort import Effort
from autotune.environment import environment_of
from autotune.history import History
from autotune.observer import CellResult, Observer
from autotune.search import Search
from autotune.skip_rules import SkipRules
from autotune.strategies.config import Config
from autotune.strategies.space import Space
from autotune.strategies.strategy import Strategy
from autotune.worker import Worker

FINALIST_FACTOR = 2.0  # noise on a shared machine; what is slower than this does not win a race


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One tuning run: an open database, a worker, and how hard to try."""

    store: Store
    storage: BaseStorage
    worker: Worker
    peak: DevicePeak
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
        history = History.of(self.store, self.run_id, cell, environment, records)
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
            best = self._decide(history, raced, defaults[:1])
        result = CellResult(cell, history.tried, best, history.added)
        self.observer.cell_finished(result)
        return result

    def _search(self, history: History, spaces: Mapping[str, Space], rules: SkipRules, number: int, total: int) -> None:
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

    def _measure(self, history: History, strategy: Strategy, config: Config) -> Measurement:
        measurement = self.peak.checked(history.cell, self.worker.measure(self._candidate(history, config)))
        return history.predicted(strategy, config, measurement)

    def _final(self, history: History, defaults: Collection[Config]) -> list[Config]:
        """Race the fastest few in turn, for medians taken minutes apart on a shared machine do not compare.

        The default is always among them, so that no pick is slower than it.
        """
        finalists = self._fastest(history, defaults)
        if len(finalists) < 2 or not history.added or time.monotonic() >= self.deadline:
            return []
        candidates = tuple(self._candidate(history, config) for config in finalists)
        contest = Race(candidates=candidates, rounds=self.effort.rounds, budget_s=self.effort.race_s)
        self.observer.final_started(len(finalists))
        race, times = uuid4().hex, self.worker.race(contest)
        for config, times_ms in zip(finalists, times, strict=False):
            raced = replace(history.tried[config], times_ms=times_ms, race=race)
            history.add(config, self.peak.checked(history.cell, raced))
            self.observer.candidate_finished(config, history.tried[config])
        return finalists if times else []

    def _candidate(self, history: History, config: Config) -> Candidate:
        best_ms = history.best_ms()
        return history.candidate(
            self.strategies[config.strategy],
            config,
            timing_budget_s=self.effort.timing_budget_s,
            drop_over_ms=None if best_ms is None else best_ms * self.effort.drop_factor,
        )

    def _fastest(self, history: History, defaults: Collection[Config]) -> list[Config]:
        """The defaults, and the fastest others that fit, as far as they are near enough to win a race."""
        limit, best_ms = self.memory_limit_bytes, history.best_ms()
        times = {
            config: m.time_ms
            for config, m in history.tried.items()
            if m.status is Status.OK and m.time_ms and (m.peak_memory_bytes or 0) <= limit
        }
        near = [config for config, time_ms in times.items() if best_ms and time_ms <= best_ms * FINALIST_FACTOR]
        return sorted(near, key=lambda config: (config not in defaults, times[config]))[: self.effort.finalists]

    def _decide(self, history: History, raced: Collection[Config], defaults: Collection[Config]) -> Config | None:
        """Choose among the finalists, or all if there was no race, and store the choice if anything is new."""
        contenders = {config: m for config, m in history.tried.items() if not raced or config in raced}
        choice = best_config(contenders, self.memory_limit_bytes, defaults)
        if choice is None:
            return None
        if history.added:
            self.store.decide(
                history.environment,
                history.cell.problem,
                history.cell.pattern,
                choice.config,
                history.ids[choice.config],
                choice.margin,
                len(history.tried),
            )
        return choice.config
