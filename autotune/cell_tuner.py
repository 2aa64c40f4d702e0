"""Tuning one cell: ask the search, skip or measure, store, decide."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from optuna.storages import BaseStorage

from autotune.candidate import Candidate
from autotune.cells import Cell
from autotune.db.records import Environment, Measurement, Record, Status
from autotune.device_rates import DevicePeak
from autotune.effort import Effort
from autotune.final import Final
from autotune.history import History, Ledger
from autotune.memory_limit import memory_limit
from autotune.observer import CellResult, Observer
from autotune.pace import Pace, Place
from autotune.prior import Prior
from autotune.search import Sampler, Search
from autotune.skip_rules import SkipRules
from autotune.strategies.config import Config
from autotune.strategies.space import Space
from autotune.strategies.strategy import Strategy
from autotune.worker import Tester


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
    memory_limit_bytes: int | None  # peak above the inputs; what the device has left beside them if None
    deadline: float  # of the monotonic clock
    observer: Observer
    force: bool = False  # run what would be left out, and again what failed
    reverify: bool = False  # begin with what was fast in the same cell by other software, and with nothing else
    sampler: Sampler = "model"
    seed: int = 0

    def tune_cell(self, cell: Cell, number: int, total: int) -> CellResult:
        """Search one cell, its share of the time left; on an interruption too, what is measured is decided upon."""
        records = self.store.records(environment_fingerprint=self.environment.fingerprint)
        history = History.of(self.store, self.run_id, cell, self.environment, records)
        refusals = {
            name: reason
            for name, strategy in self.strategies.items()
            if (reason := strategy.refusal(cell.problem, cell.pattern)) is not None
        }
        spaces = {
            name: strategy.space(cell.problem, cell.pattern)
            for name, strategy in self.strategies.items()
            if name not in refusals
        }
        if not spaces:
            return self._refuse(history, refusals, number, total)
        limit = memory_limit(cell, self.memory_limit_bytes)
        defaults = [space.default for space in spaces.values()]
        rules = SkipRules.of(cell, limit, self.effort, defaults, records)
        now = time.monotonic()
        place = Place(number, total, now, deadline=now + (self.deadline - now) / (total - number + 1))
        final = Final(
            history=history,
            strategies=self.strategies,
            configs={config for space in spaces.values() for config in space},
            defaults=defaults[:1],
            measure=partial(self._measure, history, rules),
            worker=self.worker,
            peak=self.peak,
            effort=self.effort,
            memory_limit_bytes=limit,
            deadline=place.deadline,
            observer=self.observer,
        )
        try:
            self._search(history, self._begin(history, spaces, records, limit), rules, place)
            final.hold()
        finally:
            best = final.decide()
        return self._finish(history, best)

    def _refuse(self, history: History, refusals: Mapping[str, str], number: int, total: int) -> CellResult:
        """Store why nothing can do a cell."""
        self.observer.cell_started(history.cell, number, total, 0)
        for name, reason in refusals.items():
            config, measurement = Config.of(name), Measurement(status=Status.UNSUPPORTED, reason=reason)
            self.observer.candidate_started(config)
            history.add(config, measurement)
            self.observer.candidate_finished(config, measurement)
        return self._finish(history, None)

    def _finish(self, history: History, best: Config | None) -> CellResult:
        result = CellResult(history.cell, history.tried, best, history.added)
        self.observer.cell_finished(result)
        return result

    def _begin(
        self, history: History, spaces: Mapping[str, Space], records: Sequence[Record], limit_bytes: int
    ) -> Search:
        """The search, told what is known of the cell and of those like it."""
        cell = history.cell
        everywhere = self.store.records(problem=cell.problem, pattern=cell.pattern)
        prior = Prior.of(cell, self.strategies, self.peak, self.environment, [*records, *everywhere])
        configs = {config for space in spaces.values() for config in space}
        known = history.conclusive(force=self.force)
        again = [config for config in history.tried if self.force and config in configs and config not in known]
        name = f"{cell.problem.key} {cell.pattern.label} on {self.environment.device_name}"
        return Search(
            self.storage,
            f"{name} {self.environment.fingerprint}",
            spaces,
            known,
            limit_bytes,
            first=[*again, *prior.leaders(configs, elsewhere_only=self.reverify)],
            expected_ms=prior.expected_ms,
            sampler=self.sampler,
            seed=self.seed,
        )

    def _search(self, history: History, search: Search, rules: SkipRules, place: Place) -> None:
        trials = min(self.effort.trials or search.size, search.size)
        pace = Pace(trials - search.answered, trials * (place.total - place.number), self.deadline, place.started)
        self.observer.cell_started(history.cell, place.number, place.total, max(0, pace.left))
        asks = search.asks()
        while pace.left > 0 and time.monotonic() < place.search_deadline and (ask := next(asks, None)) is not None:
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

    def _candidate(self, history: History, config: Config) -> Candidate:
        best_ms = history.best_ms()
        return history.candidate(
            self.strategies[config.strategy],
            config,
            timing_budget_s=self.effort.timing_budget_s,
            drop_over_ms=None if best_ms is None else best_ms * self.effort.drop_factor,
        )
