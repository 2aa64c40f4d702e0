"""Running a suite: its implementations at every length, measured as a search measures, with nothing searched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, count, groupby
from pathlib import Path

import torch

from autotune.candidate import Race
from autotune.cells import Cell, Workload
from autotune.db.location import default_database
from autotune.db.records import Environment, Measurement, Status
from autotune.db.store import Store
from autotune.device_rates import store_rates
from autotune.environment import environment_of, free_memory_bytes, resolve_device
from autotune.forecast import Forecast, Known
from autotune.history import History
from autotune.observer import CellResult, Observer
from autotune.skip_rules import SkipRules
from autotune.strategies.catalog import STRATEGIES, refusal
from autotune.strategies.config import Config
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Implementation, Suite
from autotune.timing import wall_s
from autotune.worker import Deadlines, Worker

TIMING_BUDGET_S = 2.0
RACE_ROUNDS = 10
RACE_S = 60.0  # no new round after so many seconds
CALL_LIMIT_S = 600.0
MEMORY_SHARE = 0.8  # of the free memory, where no limit is given
COMPILE_S = 600.0  # and as much again as some calls take
CALLS_WITHIN_LIMIT = 3  # a call may take so many times the limit before it is killed: predictions are no promises


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a cell may take before it is left out.

    Args:
        call_s: the longest call.
        memory_bytes: peak memory above the inputs; what the device has left beside the inputs if None.
        force: run everything, whatever is predicted, and again what has failed before.
    """

    call_s: float = CALL_LIMIT_S
    memory_bytes: int | None = None
    force: bool = False

    @property
    def deadlines(self) -> Deadlines:
        """When a worker is taken for hanging."""
        allowed = float("inf") if self.force else CALLS_WITHIN_LIMIT * self.call_s
        return Deadlines(prepare_s=float("inf"), compile_s=COMPILE_S + allowed, run_s=COMPILE_S + allowed)

    def memory_for(self, cell: Cell) -> int:
        """Peak memory above the inputs that a cell may take."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        inputs = cell.problem.output_bytes + cell.problem.kv_bytes
        return max(0, int(MEMORY_SHARE * free_memory_bytes(cell.device)) - inputs)


def bench(
    suite: Suite,
    workload: Workload,
    *,
    device: str | None = None,
    limits: Limits | None = None,
    db: str | Path | None = None,
    observer: Observer | None = None,
    command: str = "autotune.bench()",
) -> list[CellResult]:
    """Measure every implementation of a suite at every length and store it; what is stored is not measured again.

    Args:
        suite: the implementations.
        workload: lengths, shapes, and the patterns that the names stand for.
        device: ``cpu``, ``cuda`` or ``cuda:INDEX``; the best one present if None.
        limits: what is not run.
        db: database path or URL; the default database if None.
        observer: told about progress.
        command: noted with the measurements.

    Raises:
        AutotuneError: an argument is out of range, or the database cannot be used.
    """
    target, limits = resolve_device(device), limits or Limits()
    cells = [cell for cell in workload.cells(target) if suite.of(cell.pattern)]
    with open_run(suite, target, limits, db, observer, command) as run:
        return run.measure(cells)


@contextmanager
def open_run(
    suite: Suite, device: torch.device, limits: Limits, db: str | Path | None, observer: Observer | None, command: str
) -> Iterator["SuiteRun"]:
    """A run with its database and worker; the arguments are those of `bench`."""
    with Store.open(db or default_database()) as store, Worker(limits.deadlines) as worker:
        yield SuiteRun(
            suite=suite,
            environment=environment_of(device),
            store=store,
            worker=worker,
            run_id=store.begin_run(command),
            limits=limits,
            observer=observer or Observer(),
            forecast=Forecast(suite),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run of a suite on one device."""

    suite: Suite
    environment: Environment
    store: Store
    worker: Worker
    run_id: int
    limits: Limits
    observer: Observer
    forecast: Forecast

    def measure(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Every cell, each implementation in turn."""
        records = self.store.records(environment_fingerprint=self.environment.fingerprint)
        self.forecast.learn(record for record in records if _same_setting(record.problem, cells))
        histories = [History.of(self.store, self.run_id, cell, self.environment, records) for cell in cells]
        missing = {history.cell: self._missing(history) for history in histories}
        if any(self._foregone(cell, each) is None for cell, pending in missing.items() for each in pending):
            device, dtype = str(cells[0].device), cells[0].problem.dtype
            store_rates(self.store, self.worker, self.run_id, self.environment, device, dtype)
        numbers = count(1)
        for _, same in groupby(histories, key=lambda history: history.cell.problem):
            side_by_side, ran = list(same), False
            for history in side_by_side:
                self.observer.cell_started(history.cell, next(numbers), len(cells), len(missing[history.cell]))
                while pending := missing[history.cell]:
                    self.observer.time_left(self._time_left_s(missing))
                    ran |= self._measure_one(history, pending.pop(0))
                self.observer.cell_finished(self._result(history))
            if ran:
                self._race(side_by_side)
        return [self._result(history) for history in histories]

    def _result(self, history: History) -> CellResult:
        configs = [each.config(history.cell.problem) for each in self.suite.of(history.cell.pattern)]
        tried = {config: history.tried[config] for config in configs}
        return CellResult(history.cell, tried, history.fastest(configs), history.added)

    def _race(self, histories: Sequence[History]) -> None:
        """Time the implementations of one length again, in turn: what is compared has met the same disturbances.

        Only as many, from the fastest on, as can be timed twice within the budget.
        """
        timed = [
            (m.time_ms, history, config)
            for history in histories
            for config, m in self._result(history).tried.items()
            if m.status is Status.OK and m.time_ms is not None
        ]
        timed.sort(key=lambda entry: entry[0])
        round_ms = accumulate(time_ms for time_ms, _, _ in timed)
        entries = [entry for entry, total_ms in zip(timed, round_ms, strict=True) if 2e-3 * total_ms <= RACE_S]
        if len(entries) < 2:
            return
        candidates = tuple(
            history.candidate(STRATEGIES[config.strategy], config, timing_budget_s=TIMING_BUDGET_S)
            for _, history, config in entries
        )
        self.observer.final_started(len(entries))
        times = self.worker.race(Race(candidates=candidates, rounds=RACE_ROUNDS, budget_s=RACE_S))
        for (_, history, config), times_ms in zip(entries, times, strict=False):
            history.add(config, replace(history.tried[config], times_ms=times_ms))

    def measure_one(self, cell: Cell, implementation: Implementation) -> Measurement:
        """One implementation in one cell: what is stored of it, or what comes of it now."""
        records = self.store.records(
            environment_fingerprint=self.environment.fingerprint, problem=cell.problem, pattern=cell.pattern
        )
        history = History.of(self.store, self.run_id, cell, self.environment, records)
        if implementation in self._missing(history):
            self._measure_one(history, implementation)
        else:
            self._note(history, implementation)
        return history.tried[implementation.config(cell.problem)]

    def _missing(self, history: History) -> list[Implementation]:
        """The implementations that have no measurement in a cell; with ``force``, none that is ok."""
        done = {config for config, m in history.conclusive().items() if m.status is Status.OK or not self.limits.force}
        implementations = self.suite.of(history.cell.pattern)
        return [each for each in implementations if each.config(history.cell.problem) not in done]

    def _measure_one(self, history: History, implementation: Implementation) -> bool:
        """Store what comes of an implementation; whether it had to be run for that."""
        config = implementation.config(history.cell.problem)
        self.observer.candidate_started(config)
        foregone = self._foregone(history.cell, implementation)
        history.add(config, foregone or self._run(history, config))
        self._note(history, implementation)
        self.observer.candidate_finished(config, history.tried[config])
        return foregone is None

    def _run(self, history: History, config: Config) -> Measurement:
        strategy = STRATEGIES[config.strategy]
        candidate = history.candidate(strategy, config, timing_budget_s=TIMING_BUDGET_S)
        return history.predicted(strategy, config, self.worker.measure(candidate))

    def _foregone(self, cell: Cell, implementation: Implementation) -> Measurement | None:
        """What comes of an implementation without running it; None if it has to be run."""
        config = implementation.config(cell.problem)
        if (reason := refusal(cell.problem, cell.pattern, config)) is not None:
            return Measurement(status=Status.UNSUPPORTED, reason=reason)
        if self.limits.force:
            return None
        known = self.forecast.known.get(implementation.name)
        rules = SkipRules(
            cell, self.limits.memory_for(cell), self.limits.call_s, {} if known is None else {config: known}
        )
        return rules.verdict(STRATEGIES[config.strategy], config)

    def _note(self, history: History, implementation: Implementation) -> None:
        cell = history.cell
        measurement = history.tried[implementation.config(cell.problem)]
        self.forecast.note(implementation.name, Known(cell.problem, cell.pattern, measurement))

    def _time_left_s(self, missing: dict[Cell, list[Implementation]]) -> float | None:
        """What the rest takes; None until each implementation that has to be run has been timed."""
        total_s = 0.0
        for cell, implementations in missing.items():
            for each in implementations:
                if self._foregone(cell, each) is None:
                    if (call_ms := self.forecast.predicted_ms(each.name, cell)) is None:
                        return None
                    total_s += wall_s(call_ms, TIMING_BUDGET_S)
        return total_s


def _same_setting(problem: Problem, cells: Sequence[Cell]) -> bool:
    """Whether a problem differs from the cells' in nothing but the length."""
    query_len, kv_len = problem.query_len, problem.kv_len
    return any(replace(cell.problem, query_len=query_len, kv_len=kv_len) == problem for cell in cells)
