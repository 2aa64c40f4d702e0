"""Timing the rows of a suite in turn, beside what they are held against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from uuid import uuid4

from autotune.candidate import Race
from autotune.db.records import Measurement, Status
from autotune.device_rates import DevicePeak
from autotune.history import History
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.worker import Tester

ROUNDS = 10
SHORTEST_REFERENCE = 4096  # where the search for a reference begins


@dataclass(frozen=True, slots=True)
class Contestant:
    """A configuration in a cell that has been tried."""

    history: History
    config: Config

    @property
    def measurement(self) -> Measurement:
        """What came of it last."""
        return self.history.tried[self.config]

    @property
    def time_ms(self) -> float | None:
        """Its median; None unless it is ok."""
        return self.measurement.time_ms if self.measurement.status is Status.OK else None

    @property
    def first_ms(self) -> float:
        """The median of its first measurement that was ok; infinite if there is none."""
        return self.history.first_ms.get(self.config, float("inf"))

    @property
    def races(self) -> set[str]:
        """In which it has been timed."""
        return self.history.races[self.config]


def lineup(rows: Sequence[Contestant], reference: Contestant | None, budget_s: float) -> list[Contestant]:
    """Who takes part: the reference, and from the fastest row on as many as can be timed twice within the budget."""
    timed = [(time_ms, row) for row in rows if (time_ms := row.time_ms) is not None and row != reference]
    timed.sort(key=lambda entry: entry[0])
    if reference is not None and timed:
        timed.insert(0, (reference.time_ms or 0.0, reference))
    rounds_ms = accumulate(time_ms for time_ms, _ in timed)
    return [row for (_, row), round_ms in zip(timed, rounds_ms, strict=True) if 2e-3 * round_ms <= budget_s]


def have_met(entries: Sequence[Contestant]) -> bool:
    """Whether all have been timed in one race already."""
    return bool(set.intersection(*(entry.races for entry in entries)))


def hold(
    entries: Sequence[Contestant], worker: Tester, peak: DevicePeak, timing_budget_s: float, budget_s: float
) -> None:
    """Time them in turn, for what is compared is to meet the same disturbances, and store the times as of one race."""
    candidates = tuple(
        entry.history.candidate(STRATEGIES[entry.config.strategy], entry.config, timing_budget_s=timing_budget_s)
        for entry in entries
    )
    race, times = uuid4().hex, worker.race(Race(candidates=candidates, rounds=ROUNDS, budget_s=budget_s))
    for entry, times_ms in zip(entries, times, strict=False):
        raced = replace(entry.measurement, times_ms=times_ms, race=race)
        flops = entry.history.flops(STRATEGIES[entry.config.strategy], entry.config)
        entry.history.add(entry.config, peak.checked(flops, raced))


def longest_power(fits: Callable[[int], bool], first: int = SHORTEST_REFERENCE) -> int | None:
    """The longest length that fits, of ``first`` times the powers of two; None if not even 1 does.

    >>> longest_power(lambda length: length < 10_000), longest_power(lambda length: length < 1000)
    (8192, 512)
    """
    length = first
    if fits(length):
        while fits(2 * length):
            length *= 2
        return length
    while length > 1:
        length //= 2
        if fits(length):
            return length
    return None
