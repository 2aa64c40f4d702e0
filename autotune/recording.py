"""Recorded measurements of a cell as something to search: its spaces, and a worker that answers from the record."""

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from autotune.candidate import Candidate, Race
from autotune.cells import Cell
from autotune.db.records import Environment, Measurement, Record, Status
from autotune.rates import Rates, RateTask
from autotune.separation import time_ratio
from autotune.shootout import Times, shoot_out
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import KV_HOMES, Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy
from autotune.timing import repeat_count


@dataclass(frozen=True)
class Recording:
    """What is recorded of one cell: the latest measurement of each configuration, in the order of the first ones.

    The first configuration of each strategy is taken for its default, which a search tries first.
    """

    environment: Environment
    cell: Cell
    measured: Mapping[Config, Measurement]

    @cached_property
    def optimum(self) -> Config | None:
        """The fastest; None if nothing is ok."""
        return min(self._levels, key=lambda config: self._levels[config], default=None)

    def regret(self, config: Config) -> float:
        """How much longer a configuration takes than the optimum, as a share of that."""
        assert self.optimum is not None
        return self._levels.get(config, float("inf")) / self._levels[self.optimum] - 1

    @cached_property
    def _levels(self) -> dict[Config, float]:
        """Times relative to the cell's: of those in the fastest's race round by round, else by the medians.

        The time of a round is the median over all who ran every round.
        """
        ran = {config: m for config, m in self.measured.items() if m.status is Status.OK and m.time_ms}
        if not ran:
            return {}
        fastest = min(ran.values(), key=_time_ms)
        raced = [m.times_ms for m in ran.values() if fastest.race is not None and m.race == fastest.race]
        rounds = max(map(len, raced), default=0)
        pace = [statistics.median(each) for each in zip(*(t for t in raced if len(t) == rounds), strict=True)]

        def level(mine: Measurement) -> float:
            if pace and mine.race == fastest.race:
                return time_ratio(mine.times_ms, pace).estimate
            return level(fastest) * _time_ms(mine) / _time_ms(fastest) if pace else _time_ms(mine)

        return {config: level(mine) for config, mine in ran.items()}

    @cached_property
    def strategies(self) -> dict[str, Strategy]:
        """The strategies that are recorded, by name."""
        return {name: RecordedStrategy(self, name) for name in dict.fromkeys(c.strategy for c in self.measured)}


def recordings_of(records: Iterable[Record]) -> list[Recording]:
    """The cells of a record in which something ran, the shortest first."""
    cells: dict[tuple[Environment, Problem, Pattern], dict[Config, Measurement]] = {}
    for record in records:
        cells.setdefault((record.environment, record.problem, record.pattern), {})[record.config] = record.measurement
    here = torch.device("cpu")  # where nothing will run
    found = [
        Recording(environment, Cell(here, problem, pattern), measured)
        for (environment, problem, pattern), measured in cells.items()
    ]
    return sorted((each for each in found if each.optimum is not None), key=lambda each: each.cell.problem.kv_len)


class RecordedStrategy(Strategy):
    """One of a record's strategies, which offers what was recorded and cannot be built."""

    kv_homes = KV_HOMES

    def __init__(self, recording: Recording, name: str) -> None:
        self.name = name  # type: ignore[misc]  # of the instance, for each record has its own
        self._measured = recording.measured
        self._space = space_of(name, [config for config in recording.measured if config.strategy == name])

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """It was measured."""
        return None

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """The recorded configurations."""
        return self._space

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """The estimate that is recorded."""
        return self._measured[config].predicted_memory_bytes or 0

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Those of the strategy of that name, where there still is one."""
        known = STRATEGIES.get(config.strategy)
        return pattern.flops(problem) if known is None else known.flops(problem, pattern, config)

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Refuse; see `Strategy`."""
        raise UnsupportedError(f"{config.text} is a record, and cannot run")


def space_of(strategy: str, configs: Sequence[Config]) -> Space:
    """The space that holds exactly these configurations, the first of them as its default.

    >>> configs = [Config.of("ring", compile="off"), Config.of("ring", compile="default", dynamic=False)]
    >>> [choice.name for choice in space_of("ring", configs).choices], list(space_of("ring", configs)) == configs
    (['compile', 'dynamic'], True)
    """
    recorded = frozenset(configs)
    present = [name for config in configs for name, _ in config.params]
    names = sorted(dict.fromkeys(present), key=present.count, reverse=True)  # what depends comes after
    choices = tuple(_choice(name, names[:index], configs) for index, name in enumerate(names))
    return Space(strategy, choices, (lambda params: Config.of(strategy, **params) in recorded,))


def _choice(name: str, earlier: Sequence[str], configs: Sequence[Config]) -> Choice:
    """A parameter with its values, and the values of another one beside which alone it occurs."""
    having = [config.values for config in configs if name in config.values]
    lacking = [config.values for config in configs if name not in config.values]
    values = tuple(dict.fromkeys(params[name] for params in having))
    for other in earlier if lacking else ():
        beside = tuple(dict.fromkeys(params[other] for params in having if other in params))
        if beside and not any(params.get(other) in beside for params in lacking):
            return Choice(name, values, when=(other, beside))
    return Choice(name, values)


class RecordedWorker:
    """Answers with repeats drawn from the recorded ones, so that noise is as real as the record."""

    def __init__(self, recording: Recording, seed: int) -> None:
        self._measured = recording.measured
        self._random = random.Random(seed)
        self.asked: list[Config] = []

    def measure(self, candidate: Candidate) -> Measurement:
        """As many repeats as the candidate's budget has room for; what did not run does not run again."""
        self.asked.append(candidate.config)
        recorded, drop_over_ms = self._measured[candidate.config], candidate.drop_over_ms
        if not recorded.times_ms:
            return recorded
        first = self._random.choice(recorded.times_ms)
        dropped = drop_over_ms is not None and first > drop_over_ms
        more = 0 if dropped else repeat_count(first, candidate.timing_budget_s) - 1
        return replace(recorded, times_ms=(first, *self._random.choices(recorded.times_ms, k=more)))

    def race(self, contest: Race) -> Times:
        """Rounds drawn at random; those who were raced together are in the same recorded round."""
        recorded = [self._measured[candidate.config].times_ms for candidate in contest.candidates]
        round_at, timed = self._random.random(), set[int]()

        def clock(index: int) -> float:
            nonlocal round_at
            if index in timed:
                timed.clear()
                round_at = self._random.random()
            timed.add(index)
            return recorded[index][int(round_at * len(recorded[index]))]

        rounds, extra_rounds = contest.rounds, contest.extra_rounds
        return shoot_out(clock, len(recorded), rounds=rounds, budget_s=contest.budget_s, extra_rounds=extra_rounds)

    def rates(self, task: RateTask) -> Rates | None:
        """Nothing runs here."""
        return None


def _time_ms(measurement: Measurement) -> float:
    assert measurement.time_ms is not None
    return measurement.time_ms
