"""What is known about one cell, from the database and from this run."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from autotune.candidate import Candidate
from autotune.cells import Cell
from autotune.db.records import Choice, Environment, Measurement, Record, Status
from autotune.decide import Best
from autotune.environment import free_memory_bytes
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Strategy

GROWTH_SHARE = 0.9  # of the free memory: past this a candidate's allocations fail


class Ledger(Protocol):
    """What a search needs of a store; see `Store`."""

    def records(
        self,
        *,
        environment_fingerprint: str | None = None,
        problem: Problem | None = None,
        pattern: Pattern | None = None,
    ) -> list[Record]:
        """Stored measurements, oldest first; each argument narrows them."""
        ...

    def choices(
        self, *, environment_fingerprint: str | None = None, problem: Problem, pattern: Pattern
    ) -> list[Choice]:
        """The latest decision for a cell."""
        ...

    def add(
        self,
        run_id: int,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        config: Config,
        measurement: Measurement,
    ) -> int:
        """Store a measurement, and return its id."""
        ...

    def decide(
        self,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        config: Config,
        measurement_id: int,
        margin: float | None,
        candidates: int,
    ) -> None:
        """Store what a search settled on for a cell."""
        ...

    def add_race(
        self,
        run_id: int,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        raced: Mapping[Config, Measurement],
        winner: Config | None,
        margin: float | None,
        candidates: int,
    ) -> dict[Config, int]:
        """Store the measurements of a race and what it decided, all or nothing, and return the ids of the former."""
        ...


@dataclass(slots=True)
class History:
    """The measurements of a cell; new ones are stored as they come."""

    store: Ledger
    run_id: int
    cell: Cell
    environment: Environment
    tried: dict[Config, Measurement] = field(default_factory=dict)
    ids: dict[Config, int] = field(default_factory=dict)
    races: defaultdict[Config, set[str]] = field(default_factory=lambda: defaultdict(set))  # in which each was timed
    first_ms: dict[Config, float] = field(default_factory=dict)  # median of the first measurement that was ok
    decided: Config | None = None  # what the latest decision settled on, unless something ok is newer
    raced: bool = False  # whether that rests on a race, and nothing ok is newer than the race
    newest: Measurement | None = None  # of those that are ok
    added: int = 0  # measurements of this run, races and skips left out

    @classmethod
    def of(
        cls, store: Ledger, run_id: int, cell: Cell, environment: Environment, records: Sequence[Record]
    ) -> "History":
        """Begin with the records of this cell among those of the environment."""
        history = cls(store, run_id, cell, environment)
        newest_ok = datetime.min.replace(tzinfo=UTC)
        for record in records:
            if (record.problem, record.pattern) == (cell.problem, cell.pattern):
                history._note(record.config, record.measurement, record.id)
                if record.measurement.status is Status.OK:
                    newest_ok = max(newest_ok, record.created_at)
        fingerprint = environment.fingerprint
        for choice in store.choices(environment_fingerprint=fingerprint, problem=cell.problem, pattern=cell.pattern):
            if newest_ok <= choice.created_at:
                history._note_decision(choice.config)
        return history

    def conclusive(self, *, force: bool = False) -> dict[Config, Measurement]:
        """What need not be measured again.

        A skip is looked at anew, for the limits may have changed, and so is what somebody killed.

        With ``force`` every failure is, for a record does not say under which limits it failed.
        """
        anew = [status for status in Status if status is not Status.OK] if force else [Status.SKIPPED]
        return {config: m for config, m in self.tried.items() if m.status not in anew and not m.was_killed}

    def fastest(self, among: Collection[Config] | None = None) -> Config | None:
        """The configuration with the shortest median so far, among some or all; None if none is ok."""
        tried = self.tried if among is None else {config: self.tried[config] for config in among}
        times = {config: m.time_ms for config, m in tried.items() if m.status is Status.OK and m.time_ms}
        return min(times, key=lambda config: times[config], default=None)

    def best_ms(self) -> float | None:
        """Its median."""
        best = self.fastest()
        return None if best is None else self.tried[best].time_ms

    def candidate(
        self, strategy: Strategy, config: Config, *, timing_budget_s: float = 1.0, drop_over_ms: float | None = None
    ) -> Candidate:
        """A configuration as a worker is asked to try it."""
        return Candidate(
            device=str(self.cell.device),
            problem=self.cell.problem,
            pattern=self.cell.pattern,
            strategy=strategy,
            config=config,
            threads=self.environment.threads,
            growth_limit_bytes=int(GROWTH_SHARE * free_memory_bytes(self.cell.device)),
            timing_budget_s=timing_budget_s,
            drop_over_ms=drop_over_ms,
        )

    def flops(self, strategy: Strategy, config: Config) -> float:
        """Operations that a configuration executes."""
        return strategy.flops(self.cell.problem, self.cell.pattern, config)

    def add(self, config: Config, measurement: Measurement) -> None:
        """Store a measurement, unless it is what is stored already: of a skip, by the same rule."""
        known = self.tried.get(config)
        if known is not None and (known == measurement or _skipped_alike(known, measurement)):
            self.tried[config] = measurement
            return
        cell = self.cell
        number = self.store.add(self.run_id, self.environment, cell.problem, cell.pattern, config, measurement)
        self._note(config, measurement, number)
        self.added += measurement.status is not Status.SKIPPED
        if measurement.status is Status.OK:
            self.decided, self.raced = None, False

    def add_race(self, raced: Mapping[Config, Measurement], choice: Best | None) -> None:
        """Store the measurements of a race together with the decision that it leads to, if any."""
        ids = self.store.add_race(
            self.run_id,
            self.environment,
            self.cell.problem,
            self.cell.pattern,
            raced,
            None if choice is None else choice.config,
            None if choice is None else choice.margin,
            len(self.tried),
        )
        for config, measurement in raced.items():
            self._note(config, measurement, ids[config])
        if choice is not None:
            self._note_decision(choice.config)

    def decide(self, choice: Best) -> None:
        """Store a decision that rests on what is stored."""
        self.store.decide(
            self.environment,
            self.cell.problem,
            self.cell.pattern,
            choice.config,
            self.ids[choice.config],
            choice.margin,
            len(self.tried),
        )
        self._note_decision(choice.config)

    def _note_decision(self, config: Config) -> None:
        self.decided = config
        race = None if self.newest is None else self.newest.race
        self.raced = race is not None and config in self.tried and self.tried[config].race == race

    def _note(self, config: Config, measurement: Measurement, number: int) -> None:
        self.tried[config], self.ids[config] = measurement, number
        if measurement.race:
            self.races[config].add(measurement.race)
        if measurement.status is Status.OK:
            self.newest = measurement
        if measurement.status is Status.OK and measurement.time_ms:
            self.first_ms.setdefault(config, measurement.time_ms)


def _skipped_alike(one: Measurement, other: Measurement) -> bool:
    """Whether both are skips, for reasons that begin alike: figures change with the memory that is free."""
    rules = {re.split(r"\d", each.reason)[0] for each in (one, other)}
    return one.status is other.status is Status.SKIPPED and len(rules) == 1
