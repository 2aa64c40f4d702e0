"""Timing configurations in turn, for what is compared is to meet the same disturbances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from autotune.candidate import Race
from autotune.db.records import Measurement, Status
from autotune.device_rates import DevicePeak
from autotune.history import History
from autotune.strategies.config import Config
from autotune.strategies.strategy import Strategy
from autotune.worker import Tester


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


def hold(
    entries: Sequence[Contestant],
    strategies: Mapping[str, Strategy],
    worker: Tester,
    peak: DevicePeak,
    *,
    rounds: int,
    budget_s: float,
    extra_rounds: int = 0,
) -> list[Measurement]:
    """Time contestants in turn; see `shoot_out`.

    Returns:
        What was known of each, with the times of this race, not stored yet; nothing if the race failed.
    """
    candidates = tuple(entry.history.candidate(strategies[entry.config.strategy], entry.config) for entry in entries)
    contest = Race(candidates=candidates, rounds=rounds, extra_rounds=extra_rounds, budget_s=budget_s)
    race, times = uuid4().hex, worker.race(contest)
    return [
        peak.checked(
            entry.history.flops(strategies[entry.config.strategy], entry.config),
            replace(entry.measurement, times_ms=times_ms, race=race),
        )
        for entry, times_ms in zip(entries, times, strict=False)
    ]
