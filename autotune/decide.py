"""Which of a cell's measured configurations is the best."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from autotune.db.records import Measurement, Status
from autotune.strategies.config import Config

TIE = 0.02  # medians this close are a tie: it goes to the default, then to less memory


@dataclass(frozen=True, slots=True)
class Best:
    """The winner of a cell."""

    config: Config
    margin: float | None  # runner-up's median / winner's median - 1; None without a runner-up


def best_config(
    tried: Mapping[Config, Measurement], memory_limit_bytes: int, defaults: Collection[Config]
) -> Best | None:
    """The fastest configuration that is right and fits; None where there is none.

    >>> from autotune.db.records import Status
    >>> def measured(ms): return Measurement(status=Status.OK, times_ms=(ms,), peak_memory_bytes=1)
    >>> tried = {Config.of("plain"): measured(1.01), Config.of("fancy"): measured(1.0), Config.of("slow"): measured(2)}
    >>> best_config(tried, 10, defaults={Config.of("plain")}).config.text
    'plain()'
    """
    feasible = {
        config: (measurement.time_ms, measurement.peak_memory_bytes or 0)
        for config, measurement in tried.items()
        if measurement.status is Status.OK
        and measurement.time_ms is not None
        and (measurement.peak_memory_bytes or 0) <= memory_limit_bytes
    }
    if not feasible:
        return None
    fastest = min(time_ms for time_ms, _ in feasible.values())
    tied = [config for config, (time_ms, _) in feasible.items() if time_ms <= fastest * (1 + TIE)]
    winner = min(tied, key=lambda config: (config not in defaults, feasible[config][1], feasible[config][0]))
    others = [time_ms for config, (time_ms, _) in feasible.items() if config != winner]
    margin = min(others) / feasible[winner][0] - 1 if others else None
    return Best(winner, margin)
