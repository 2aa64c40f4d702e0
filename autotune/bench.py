"""Running a suite: its implementations at every length, measured as a search measures, with nothing searched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, count, groupby
from pathlib import Path

from autotune.candidate import Race
from autotune.cells import Cell, Workload
from autotune.db.location import default_database
from autotune.db.records import Environment, Measurement, Status
from autotune.db.store import Store
from autotune.device_rates import DevicePeak
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
from autotune.units import format_ms
from autotune.worker import Deadlines, Worker

TIMING_BUDGET_S = 2.0
RACE_ROUNDS = 10
RACE_S = 60.0  # no new round after so many seconds
CALL_LIMIT_S = 600.0
MEMORY_SHARE = 0.8  # of the free memory, where no limit is given
PREPARE_S = 3600.0  # inputs and oracle of a million tokens take minutes
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
        return Deadlines(prepare_s=PREPARE_S, compile_s=COMPILE_S + allowed, run_s=COMPILE_S + allowed)

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
    if not cells:
        return []
    with open_run(suite, cells[0], limits, db, observer, command) as run:
        return run.measure(cells)


@contextmanager
def open_run(
    suite: Suite, like: Cell, limits: Limits, db: str | Path | None, observer: Observer | None, command: str
) -> Iterator["SuiteRun"]:
    """A run with its database and worker, on the device and in the dtype of a cell; see `bench`."""
    environment = environment_of(like.device)
    with Store.open(db or default_database()) as store, Worker(limits.deadlines) as worker:
        run_id = store.begin_run(command)
        yield SuiteRun(
            suite=suite,
            environment=environment,
            store=store,
            worker=worker,
            peak=DevicePeak(store, worker, run_id, environment, str(like.device), like.problem.dtype),
            run_id=run_id,
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
    peak: DevicePeak
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
            self.observer.rates_started()
            self.peak.measure()
        numbers = count(1)
        for _, same in groupby(histories, key=lambda history: history.cell.problem):
            side_by_side = list(same)
            for history in side_by_side:
                self.observer.cell_started(history.cell, next(numbers), len(cells), len(missing[history.cell]))
                while pending := missing[history.cell]:
                    self.observer.time_left(self._time_left_s(missing))
                    self._measure_one(history, pending.pop(0))
            self._race(side_by_side)
            for history in side_by_side:
                self.observer.cell_finished(self._result(history))
        return [self._result(history) for history in histories]

    def _result(self, history: History) -> CellResult:
        configs = [each.config(history.cell.problem) for each in self.suite.of(history.cell.pattern)]
        tried = {config: history.tried[config] for config in configs}
        return CellResult(history.cell, tried, history.fastest(configs), history.added)

    def _race(self, histories: Sequence[History]) -> None:
        """Time the implementations of one length again, in turn: what is compared has met the same disturbances.

        Only as many, from the fastest on, as can be timed twice within the budget; and only once, for who has been
        timed twice has been in a race.
        """
        entries = self._contestants(histories)
        if len(entries) < 2 or all(history.counts[config] > 1 for history, config in entries):
            return
        candidates = tuple(
            history.candidate(STRATEGIES[config.strategy], config, timing_budget_s=TIMING_BUDGET_S)
            for history, config in entries
        )
        self.observer.final_started(len(entries))
        times = self.worker.race(Race(candidates=candidates, rounds=RACE_ROUNDS, budget_s=RACE_S))
        for (history, config), times_ms in zip(entries, times, strict=False):
            flops = history.flops(STRATEGIES[config.strategy], config)
            history.add(config, self.peak.checked(flops, replace(history.tried[config], times_ms=times_ms)))

    def _contestants(self, histories: Sequence[History]) -> list[tuple[History, Config]]:
        timed = [
            (m.time_ms, history, config)
            for history in histories
            for config, m in self._result(history).tried.items()
            if m.status is Status.OK and m.time_ms is not None
        ]
        timed.sort(key=lambda entry: entry[0])
        rounds_ms = accumulate(time_ms for time_ms, _, _ in timed)
        return [
            (history, config)
            for (_, history, config), round_ms in zip(timed, rounds_ms, strict=True)
            if 2e-3 * round_ms <= RACE_S
        ]

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
        measurement = self.peak.checked(history.flops(strategy, config), self.worker.measure(candidate))
        return history.predicted(strategy, config, measurement)

    def _foregone(self, cell: Cell, implementation: Implementation) -> Measurement | None:
        """What comes of an implementation without running it; None if it has to be run."""
        config = implementation.config(cell.problem)
        if reason := implementation.refusal(cell.problem) or refusal(cell.problem, cell.pattern, config):
            return Measurement(status=Status.UNSUPPORTED, reason=reason)
        if self.limits.force:
            return None
        known = self.forecast.known.get(implementation.name)
        rules = SkipRules(
            cell, self.limits.memory_for(cell), self.limits.call_s, {} if known is None else {config: known}
        )
        strategy = STRATEGIES[config.strategy]
        flops = strategy.flops(cell.problem, cell.pattern, config)
        return rules.verdict(strategy, config) or self._too_slow_at_best(flops)

    def _too_slow_at_best(self, flops: float) -> Measurement | None:
        """Operations that are over the limit even at the device's peak, of which nothing else need be known."""
        if (least_ms := self.peak.least_ms(flops)) <= (limit_ms := self.limits.call_s * 1e3):
            return None
        least, limit = format_ms(least_ms), format_ms(limit_ms)
        reason = f"predicted {least} a call or more, at the device's matmul rate; the limit is {limit}"
        return Measurement(status=Status.SKIPPED, reason=reason)

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
