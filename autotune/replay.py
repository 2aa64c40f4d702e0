"""Replay: the search as it is, on recorded measurements instead of a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from optuna.storages import InMemoryStorage

from autotune.cell_tuner import Session
from autotune.db.records import Choice, Environment, Measurement, Rate, Record, Run
from autotune.device_rates import DevicePeak
from autotune.effort import EFFORTS, Effort
from autotune.observer import Observer
from autotune.recording import RecordedWorker, Recording
from autotune.search import Sampler
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

NO_LIMIT_BYTES = 1 << 62
START = datetime(1970, 1, 1, tzinfo=UTC)  # what is kept is one second newer than what was kept before it


@dataclass(frozen=True, slots=True)
class Replayed:
    """One search of one recorded cell."""

    recording: Recording
    chosen: Config | None  # None if nothing that was tried is ok
    asked: tuple[Config, ...]  # what was measured, in order

    @property
    def regret(self) -> float:
        """Of the choice; see `Recording.regret`."""
        return float("inf") if self.chosen is None else self.recording.regret(self.chosen)

    def needed(self, regret: float) -> int | None:
        """Configurations measured until one was within that regret; None if none was."""
        near = (number for number, config in enumerate(self.asked, 1) if self.recording.regret(config) <= regret)
        return next(near, None)


@dataclass(slots=True)
class Notebook:
    """A database in memory, as far as a search needs one; see `Store`."""

    rates_known: Sequence[Rate] = ()
    kept: list[Record] = field(default_factory=list)
    chosen: list[Choice] = field(default_factory=list)

    def records(
        self,
        *,
        environment_fingerprint: str | None = None,
        problem: Problem | None = None,
        pattern: Pattern | None = None,
    ) -> list[Record]:
        """What was added, oldest first."""
        return [
            record
            for record in self.kept
            if environment_fingerprint in (None, record.environment.fingerprint)
            and problem in (None, record.problem)
            and pattern in (None, record.pattern)
        ]

    def choices(
        self, *, environment_fingerprint: str | None = None, problem: Problem, pattern: Pattern
    ) -> list[Choice]:
        """The latest decision for a cell."""
        return [choice for choice in self.chosen if (choice.problem, choice.pattern) == (problem, pattern)][-1:]

    def add(
        self,
        run_id: int,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        config: Config,
        measurement: Measurement,
    ) -> int:
        """Keep a measurement, and return its id."""
        record = Record(
            id=len(self.kept) + 1,
            created_at=self._now,
            run=Run(command="autotune replay", started_at=START),
            environment=environment,
            problem=problem,
            pattern=pattern,
            config=config,
            measurement=measurement,
        )
        self.kept.append(record)
        return record.id

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
        """Keep a decision."""
        choice = Choice(
            created_at=self._now,
            environment=environment,
            problem=problem,
            pattern=pattern,
            config=config,
            measurement_id=measurement_id,
            margin=margin,
            candidates=candidates,
        )
        self.chosen.append(choice)

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
        """Keep the measurements of a race and what it decided."""
        ids = {config: self.add(run_id, environment, problem, pattern, config, m) for config, m in raced.items()}
        if winner is not None:
            self.decide(environment, problem, pattern, winner, ids[winner], margin, candidates)
        return ids

    @property
    def _now(self) -> datetime:
        return START + timedelta(seconds=len(self.kept) + len(self.chosen))

    def rates(self, *, environment_fingerprint: str | None = None) -> list[Rate]:
        """Those that were recorded."""
        return [rate for rate in self.rates_known if environment_fingerprint in (None, rate.environment.fingerprint)]

    def add_rate(
        self, run_id: int, environment: Environment, dtype: str, matmul_flops_per_s: float, copy_bytes_per_s: float
    ) -> int:
        """Never called, for no rates are measured."""
        raise NotImplementedError


def replay(
    recording: Recording,
    notebook: Notebook,
    *,
    seed: int = 0,
    sampler: Sampler = "model",
    effort: Effort = EFFORTS["standard"],
) -> Replayed:
    """Search a recorded cell once, exactly as `tune` would with this database.

    Args:
        recording: the cell, and what its configurations did.
        notebook: what is known when the search begins; it is added to.
        seed: of the sampler and of the draws from the recorded repeats.
        sampler: ``random`` is blind chance, to compare with.
        effort: how hard to search.
    """
    worker, problem = RecordedWorker(recording, seed), recording.cell.problem
    session = Session(
        store=notebook,
        storage=InMemoryStorage(),
        worker=worker,
        peak=DevicePeak(notebook, worker, 0, recording.environment, "cpu", problem.dtype),
        environment=recording.environment,
        run_id=0,
        strategies=recording.strategies,
        effort=effort,
        memory_limit_bytes=NO_LIMIT_BYTES,
        deadline=float("inf"),
        observer=Observer(),
        sampler=sampler,
        seed=seed,
    )
    result = session.tune_cell(recording.cell, 1, 1)
    return Replayed(recording, result.best, tuple(worker.asked))


def replay_each(
    recordings: Sequence[Recording],
    rates: Sequence[Rate] = (),
    *,
    seed: int = 0,
    sampler: Sampler = "model",
    effort: Effort = EFFORTS["standard"],
    warm: bool = False,
) -> list[Replayed]:
    """Search each cell once; ``warm``, the shorter ones are known to the longer ones, as in one run of `tune`."""
    shared = Notebook(rates)
    notebooks = [shared if warm else Notebook(rates) for _ in recordings]
    return [
        replay(recording, notebook, seed=seed, sampler=sampler, effort=effort)
        for recording, notebook in zip(recordings, notebooks, strict=True)
    ]
