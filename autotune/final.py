"""The end of a cell's search: the fastest few race, and one is decided on.

A decision stands until something that ran is newer than it. A race and the decision it leads to are stored together,
so that a cell is never left between the two; one that was decided without a race, because the run was interrupted,
short of time or the race failed, is raced by the next run that can.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from autotune.contest import Contestant, hold
from autotune.db.records import Measurement
from autotune.decide import best_config, fits
from autotune.device_rates import DevicePeak
from autotune.effort import Effort
from autotune.history import History
from autotune.observer import Observer
from autotune.strategies.config import Config
from autotune.strategies.strategy import Strategy
from autotune.worker import Tester

FINALIST_FACTOR = 2.0  # noise on a shared machine; what is slower than this does not win a race
ENOUGH_ROUNDS = 10  # find a winner by 20 % in noise of 3 %; rather fewer finalists than fewer rounds
LEAST_ROUNDS = 3  # between two; fewer tell hardly anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What decides one cell.

    Args:
        history: the cell's.
        strategies: by name.
        configs: which may win.
        defaults: of those, which win a tie.
        measure: tries a configuration by itself.
        worker: times them in turn.
        peak: what the device reaches in plain operations.
        effort: how many race, and for how long.
        memory_limit_bytes: a peak above this is out.
        deadline: of the monotonic clock.
        observer: told about progress.
    """

    history: History
    strategies: Mapping[str, Strategy]
    configs: Collection[Config]
    defaults: Collection[Config]
    measure: Callable[[Config], Measurement]
    worker: Tester
    peak: DevicePeak
    effort: Effort
    memory_limit_bytes: int
    deadline: float
    observer: Observer

    def hold(self) -> None:
        """Race the fastest few in turn, for medians taken minutes apart on a shared machine do not compare.

        The default is among them, as far as it may win, so that no pick is slower than it. Where a race fails, fewer
        race.
        """
        most = self.effort.finalists
        while not self.history.raced and len(finalists := self._finalists(most)) > 1:
            self.observer.final_started(len(finalists))
            raced = hold(
                [Contestant(self.history, config) for config in finalists],
                self.strategies,
                self.worker,
                self.peak,
                rounds=self.effort.rounds,
                extra_rounds=self.effort.extra_rounds,
                budget_s=self._budget_s,
            )
            if raced:
                self._settle(dict(zip(finalists, raced, strict=True)))
                return
            self.observer.final_failed(len(finalists))
            most = self._try_each_again(finalists)

    def decide(self) -> Config | None:
        """What is decided; if nothing is, by the medians of the search."""
        known = {config: m for config, m in self.history.tried.items() if config in self.configs}
        decided = self.history.decided
        if decided in known and fits(known[decided], self.memory_limit_bytes):
            return decided
        choice = best_config(known, self.memory_limit_bytes, self.defaults)
        if choice is not None and decided is None:
            self.history.decide(choice)
        return None if choice is None else choice.config

    @property
    def _budget_s(self) -> float:
        return min(self.effort.race_s, self.deadline - time.monotonic())

    def _finalists(self, most: int) -> list[Config]:
        """The default, and the fastest others that fit: near enough to win, and few enough for enough rounds."""
        times = {
            config: m.time_ms
            for config, m in self.history.tried.items()
            if m.time_ms and config in self.configs and fits(m, self.memory_limit_bytes)
        }
        fastest_ms = min(times.values(), default=0.0)
        near = [config for config, time_ms in times.items() if time_ms <= fastest_ms * FINALIST_FACTOR]
        ranked = sorted(near, key=lambda config: (config not in self.defaults, times[config]))[:most]
        budget_s, rounds_s = self._budget_s, [ms / 1e3 for ms in accumulate(times[config] for config in ranked)]
        if rounds_s[1:] and (needed_s := LEAST_ROUNDS * rounds_s[1]) > budget_s:
            self.observer.final_left_out(needed_s, budget_s)
            return []
        return ranked[: max(2, sum(ENOUGH_ROUNDS * round_s <= budget_s for round_s in rounds_s))]

    def _settle(self, raced: Mapping[Config, Measurement]) -> None:
        choice = best_config(raced, self.memory_limit_bytes, self.defaults, raced=True)
        self.history.add_race(raced, choice)
        for config, measurement in raced.items():
            self.observer.candidate_finished(config, measurement)

    def _try_each_again(self, finalists: Sequence[Config]) -> int:
        """How many may race next: those that still run by themselves; if all do, the faster half of them."""
        for config in finalists:
            if self._budget_s <= 0:
                return 0
            self.observer.candidate_started(config)
            self.history.add(config, self.measure(config))
            self.observer.candidate_finished(config, self.history.tried[config])
        left = sum(fits(self.history.tried[config], self.memory_limit_bytes) for config in finalists)
        return left if left < len(finalists) else left // 2
