"""One run of a suite: each row is measured by itself, and then beside the others of its length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from types import MappingProxyType

from autotune.calibration import Calibrations
from autotune.cells import Cell
from autotune.contest import Contestant, hold
from autotune.db.records import Environment, Measurement, Record, Status
from autotune.db.store import Store
from autotune.device_rates import DevicePeak
from autotune.forecast import Forecast, Known
from autotune.history import History
from autotune.memory_limit import memory_limit
from autotune.observer import CellResult, Observer
from autotune.skip_rules import SkipRules
from autotune.strategies.catalog import STRATEGIES, refusal
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Implementation, Reference, Suite
from autotune.suite_race import have_met, lineup, longest_power
from autotune.timing import wall_s
from autotune.units import format_ms
from autotune.worker import Deadlines, Tester

TIMING_BUDGET_S = 2.0
ROUNDS = 10  # of a race
CALL_LIMIT_S = 600.0
PREPARE_S = 3600.0  # inputs and oracle of a million tokens take minutes
COMPILE_S = 600.0  # and as much again as some calls take
CALLS_WITHIN_LIMIT = 3  # a call may take so many times the limit before it is killed: predictions are no promises

Row = tuple[Config, Implementation]


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
        return memory_limit(cell, self.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run of a suite on one device."""

    suite: Suite
    environment: Environment
    store: Store
    worker: Tester
    peak: DevicePeak
    run_id: int
    limits: Limits
    observer: Observer
    forecast: Forecast
    calibrations: Calibrations
    histories: dict[Cell, History] = field(default_factory=dict)
    references: dict[Problem, Contestant | None] = field(default_factory=dict)  # by setting

    def measure(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Every cell, each implementation in turn."""
        cells = [cell for cell in cells if self.suite.rows(cell.problem, cell.pattern)]
        records = self.store.records(environment_fingerprint=self.environment.fingerprint)
        self.forecast.learn(record for record in records if _same_setting(record.problem, cells))
        histories = [self._history(cell, records) for cell in cells]
        if any(self._foregone(each.cell, *row) is None for each in histories for row in self._missing(each)):
            self.observer.rates_started()
            self.peak.measure()
        for cell in cells:
            self._reference(cell)  # some of what is missing may be measured for it
        missing = {history.cell: self._missing(history) for history in histories}
        numbers = count(1)
        for _, same in groupby(histories, key=lambda history: history.cell.problem):
            side_by_side = list(same)
            for history in side_by_side:
                self.observer.cell_started(history.cell, next(numbers), len(cells), len(missing[history.cell]))
                while pending := missing[history.cell]:
                    self.observer.time_left(self._time_left_s(missing))
                    self._measure_one(history, *pending.pop(0))
            self._race(side_by_side)
            for history in side_by_side:
                self.observer.cell_finished(self._result(history))
        return [self._result(history) for history in histories]

    def _history(self, cell: Cell, records: Sequence[Record] | None = None) -> History:
        """What is known of a cell, from the records of the environment or from the store."""
        if cell not in self.histories:
            if records is None:
                fingerprint = self.environment.fingerprint
                records = self.store.records(
                    environment_fingerprint=fingerprint, problem=cell.problem, pattern=cell.pattern
                )
            self.histories[cell] = History.of(self.store, self.run_id, cell, self.environment, records)
        return self.histories[cell]

    def _result(self, history: History) -> CellResult:
        configs = self.suite.rows(history.cell.problem, history.cell.pattern)
        tried = {config: history.tried[config] for config in configs}
        return CellResult(history.cell, tried, history.fastest(configs), history.added)

    def _race(self, histories: Sequence[History]) -> None:
        """Time the rows of one length again, in turn, unless they have been."""
        rows = [Contestant(history, config) for history in histories for config in self._result(history).tried]
        entries = lineup(rows, self._reference(histories[0].cell), self.suite.race_s)
        if len(entries) > 1 and not have_met(entries):
            self.observer.final_started(len(entries))
            raced = hold(entries, STRATEGIES, self.worker, self.peak, rounds=ROUNDS, budget_s=self.suite.race_s)
            if not raced:
                self.observer.final_failed(len(entries))
            for entry, measurement in zip(entries, raced, strict=False):
                entry.history.add(entry.config, measurement)

    def _reference(self, cell: Cell) -> Contestant | None:
        """What the rows of a setting are held against; None where the suite has nothing of the kind, or nothing ran."""
        if self.suite.reference is None:
            return None
        setting = replace(cell.problem, query_len=1, kv_len=1)
        if setting not in self.references:
            self.references[setting] = self._longest_reference(cell, self.suite.reference)
        return self.references[setting]

    def _longest_reference(self, like: Cell, reference: Reference) -> Contestant | None:
        found, limit_ms = dict[int, Contestant](), 1e3 * min(reference.call_s, self.limits.call_s)

        def fits(length: int) -> bool:
            cell = Cell(like.device, replace(like.problem, query_len=length, kv_len=length), Dense())
            config = reference.implementation.config(cell.problem, cell.pattern)
            assert config is not None  # exact attention always stands for something
            if config not in self._history(cell).tried:
                predicted_ms = self.forecast.predicted_ms(reference.implementation.name, cell)
                if max(self._least_ms(cell, config), predicted_ms or 0.0) > limit_ms:
                    return False
                self.observer.reference_started(cell)
            found[length] = self.measure_one(cell, reference.implementation)
            # As first measured: that a race was slower is no reason for another reference when a run resumes.
            return found[length].first_ms <= limit_ms

        length = longest_power(fits)
        return None if length is None else found[length]

    def measure_one(self, cell: Cell, implementation: Implementation) -> Contestant:
        """One implementation in one cell: what is stored of it, or what comes of it now."""
        history, config = self._history(cell), implementation.config(cell.problem, cell.pattern)
        assert config is not None  # what is asked for by name stands for something
        if self._open(history, config):
            self._measure_one(history, config, implementation)
        else:
            self._note(history, config, implementation)
        return Contestant(history, config)

    def _missing(self, history: History) -> list[Row]:
        """The rows that have no measurement in a cell; with ``force``, none that is ok."""
        rows = self.suite.rows(history.cell.problem, history.cell.pattern)
        return [(config, each) for config, each in rows.items() if self._open(history, config)]

    def _open(self, history: History, config: Config) -> bool:
        known = history.conclusive().get(config)
        return known is None or (self.limits.force and known.status is not Status.OK)

    def _measure_one(self, history: History, config: Config, implementation: Implementation) -> None:
        """Store what comes of an implementation."""
        self.observer.candidate_started(config)
        foregone = self._foregone(history.cell, config, implementation)
        history.add(config, foregone or self._run(history, config))
        self._note(history, config, implementation)
        self.calibrations.note(history.cell.problem, history.cell.pattern, config, history.tried[config])
        self.observer.candidate_finished(config, history.tried[config])

    def _run(self, history: History, config: Config) -> Measurement:
        strategy = STRATEGIES[config.strategy]
        predicted = self._rules(history.cell).predicted(strategy, config)
        candidate = history.candidate(strategy, config, timing_budget_s=TIMING_BUDGET_S)
        measurement = self.peak.checked(history.flops(strategy, config), self.worker.measure(candidate))
        return replace(measurement, predicted_memory_bytes=predicted.peak_bytes)

    def _foregone(self, cell: Cell, config: Config, implementation: Implementation) -> Measurement | None:
        """What comes of an implementation without running it; None if it has to be run."""
        if reason := implementation.refusal(cell.problem) or refusal(cell.problem, cell.pattern, config):
            return Measurement(status=Status.UNSUPPORTED, reason=reason)
        if self.limits.force:
            return None
        known = self.forecast.of(implementation.name, cell.problem, cell.pattern)
        rules = self._rules(cell, {} if known is None else {config: known})
        return rules.verdict(STRATEGIES[config.strategy], config) or self._too_slow_at_best(cell, config)

    def _rules(self, cell: Cell, known: Mapping[Config, Known] = MappingProxyType({})) -> SkipRules:
        memory_bytes, call_s = self.limits.memory_for(cell), self.limits.call_s
        return SkipRules(cell, memory_bytes, call_s, known, calibrations=self.calibrations)

    def _least_ms(self, cell: Cell, config: Config) -> float:
        return self.peak.least_ms(STRATEGIES[config.strategy].flops(cell.problem, cell.pattern, config))

    def _too_slow_at_best(self, cell: Cell, config: Config) -> Measurement | None:
        """What is over the limit even at the device's peak, of which nothing else need be known."""
        if (least_ms := self._least_ms(cell, config)) <= (limit_ms := self.limits.call_s * 1e3):
            return None
        least, limit = format_ms(least_ms), format_ms(limit_ms)
        reason = f"predicted {least} a call or more, at the device's matmul rate; the limit is {limit}"
        return Measurement(status=Status.SKIPPED, reason=reason)

    def _note(self, history: History, config: Config, implementation: Implementation) -> None:
        cell = history.cell
        self.forecast.note(implementation.name, Known(cell.problem, cell.pattern, history.tried[config]))

    def _time_left_s(self, missing: dict[Cell, list[Row]]) -> float | None:
        """What the rest takes; None until each implementation that has to be run has been timed."""
        total_s = 0.0
        for cell, rows in missing.items():
            for config, each in rows:
                if self._foregone(cell, config, each) is None:
                    if (call_ms := self.forecast.predicted_ms(each.name, cell)) is None:
                        return None
                    total_s += wall_s(call_ms, TIMING_BUDGET_S)
        return total_s


def _same_setting(problem: Problem, cells: Sequence[Cell]) -> bool:
    """Whether a problem differs from the cells' in nothing but the length."""
    query_len, kv_len = problem.query_len, problem.kv_len
    return any(replace(cell.problem, query_len=query_len, kv_len=kv_len) == problem for cell in cells)
