"""Tuning one cell: ask the search, skip or measure, store, decide."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from uuid import uuid4

from optuna.storages import BaseStorage

from autotune.candidate import Candidate, Race
from autotune.cells import Cell
from autotune.db.records import Environment, Measurement, Record, Status
from autotune.decide import best_config, fits
from autotune.device_rates import DevicePeak
from autotune.effort import Effort
from autotune.history import History, Ledger
from autotune.observer import CellResult, Observer
from autotune.pace import Pace, Place
from autotune.prior import Prior
from autotune.search import Sampler, Search
from autotune.skip_rules import SkipRules
from autotune.strategies.config import Config
from autotune.strategies.space import Space
from autotune.strategies.strategy import Strategy
from autotune.worker import Tester

FINALIST_FACTOR = 2.0  # noise on a shared machine; what is slower than this does not win a race
LEAST_ROUNDS = 3  # fewer tell hardly anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One tuning run: an open database, a worker, and how hard to try."""

    store: Ledger
    storage: BaseStorage
    worker: Tester
    peak: DevicePeak
    environment: Environment
    run_id: int
    strategies: Mapping[str, Strategy]
    effort: Effort
    memory_limit_bytes: int
    deadline: float  # of the monotonic clock
    observer: Observer
    force: bool = False  # run what would be left out, and again what failed
    reverify: bool = False  # begin with what was fast in the same cell by other software, and with nothing else
    sampler: Sampler = "tpe"
    seed: int = 0

    def tune_cell(self, cell: Cell, number: int, total: int) -> CellResult:
        """Search one cell, its share of the time left; on an interruption too, what is measured is decided upon."""
        records = self.store.records(environment_fingerprint=self.environment.fingerprint)
        history = History.of(self.store, self.run_id, cell, self.environment, records)
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
        now = time.monotonic()
        deadline = now + (self.deadline - now) / (total - number + 1)
        try:
            self._search(history, self._begin(history, spaces, records), rules, Place(number, total, now, deadline))
            raced = self._final(history, defaults[:1], deadline)
        finally:
            best = self._decide(history, raced, defaults[:1])
        result = CellResult(cell, history.tried, best, history.added)
        self.observer.cell_finished(result)
        return result

    def _begin(self, history: History, spaces: Mapping[str, Space], records: Sequence[Record]) -> Search:
        """The search, told what is known of the cell and of those like it."""
        cell = history.cell
        everywhere = self.store.records(problem=cell.problem, pattern=cell.pattern)
        prior = Prior.of(cell, self.strategies, self.peak, self.environment, [*records, *everywhere])
        name = f"{cell.problem.key} {cell.pattern.label} on {self.environment.device_name}"
        return Search(
            self.storage,
            f"{name} {self.environment.fingerprint}",
            spaces,
            history.conclusive(force=self.force),
            self.memory_limit_bytes,
            first=prior.leaders({c for space in spaces.values() for c in space}, elsewhere_only=self.reverify),
            expected_ms=prior.expected_ms,
            sampler=self.sampler,
            seed=self.seed,
        )

    def _search(self, history: History, search: Search, rules: SkipRules, place: Place) -> None:
        trials = min(self.effort.trials or search.size, search.size)
        pace = Pace(trials - search.answered, trials * (place.total - place.number), self.deadline, place.started)
        self.observer.cell_started(history.cell, place.number, place.total, max(0, pace.left))
        for ask in search.asks():
            if pace.left <= 0 or time.monotonic() >= place.search_deadline:
                break
            self.observer.candidate_started(ask.config)
            self.observer.time_left(pace.left_s())
            strategy = self.strategies[ask.config.strategy]
            skipped = None if self.force else rules.verdict(strategy, ask.config)
            measurement = skipped or self._measure(history, rules, ask.config)
            if measurement.status is not Status.SKIPPED:
                pace.step()
            history.add(ask.config, measurement)
            search.tell(ask, measurement)
            self.observer.candidate_finished(ask.config, measurement)

    def _measure(self, history: History, rules: SkipRules, config: Config) -> Measurement:
        strategy = self.strategies[config.strategy]
        predicted = rules.predicted(strategy, config)
        measurement = self.worker.measure(self._candidate(history, config))
        measurement = self.peak.checked(history.flops(strategy, config), measurement)
        return replace(measurement, predicted_memory_bytes=predicted.peak_bytes)

    def _final(self, history: History, defaults: Collection[Config], deadline: float) -> list[Config]:
        """Race the fastest few in turn, for medians taken minutes apart on a shared machine do not compare.

        The default is among them, as far as it may win, so that no pick is slower than it.
        """
        budget_s = min(self.effort.race_s, deadline - time.monotonic())
        finalists = self._finalists(history, defaults, budget_s)
        if len(finalists) < 2 or not history.added:
            return []
        candidates = tuple(self._candidate(history, config) for config in finalists)
        rounds, extra_rounds = self.effort.rounds, self.effort.extra_rounds
        self.observer.final_started(len(finalists))
        contest = Race(candidates=candidates, rounds=rounds, extra_rounds=extra_rounds, budget_s=budget_s)
        race, times = uuid4().hex, self.worker.race(contest)
        for config, times_ms in zip(finalists, times, strict=False):
            raced = replace(history.tried[config], times_ms=times_ms, race=race)
            flops = history.flops(self.strategies[config.strategy], config)
            history.add(config, self.peak.checked(flops, raced))
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

    def _finalists(self, history: History, defaults: Collection[Config], budget_s: float) -> list[Config]:
        """The default, and the fastest others that fit: near enough to win, and few enough for three rounds."""
        times = {c: m.time_ms for c, m in history.tried.items() if m.time_ms and fits(m, self.memory_limit_bytes)}
        fastest_ms = min(times.values(), default=0.0)
        near = [config for config, time_ms in times.items() if time_ms <= fastest_ms * FINALIST_FACTOR]
        ranked = sorted(near, key=lambda config: (config not in defaults, times[config]))[: self.effort.finalists]
        rounds_ms = accumulate(times[config] for config in ranked)
        return [c for c, round_ms in zip(ranked, rounds_ms, strict=True) if LEAST_ROUNDS * round_ms <= budget_s * 1e3]

    def _decide(self, history: History, raced: Collection[Config], defaults: Collection[Config]) -> Config | None:
        """Choose among the finalists, or all if there was no race; what is known already was decided before."""
        if not history.added and (earlier := self._earlier(history)) is not None:
            return earlier
        contenders = {config: m for config, m in history.tried.items() if not raced or config in raced}
        choice = best_config(contenders, self.memory_limit_bytes, defaults, raced=bool(raced))
        if choice is not None and history.added:
            self.store.decide(
                history.environment,
                history.cell.problem,
                history.cell.pattern,
                choice.config,
                history.ids[choice.config],
                choice.margin,
                len(history.tried),
            )
        return None if choice is None else choice.config

    def _earlier(self, history: History) -> Config | None:
        """What an earlier run settled on, if it fits."""
        cell, fingerprint = history.cell, self.environment.fingerprint
        choices = self.store.choices(environment_fingerprint=fingerprint, problem=cell.problem, pattern=cell.pattern)
        chosen = [c.config for c in choices if c.config in history.tried]
        return next((c for c in chosen if fits(history.tried[c], self.memory_limit_bytes)), None)
