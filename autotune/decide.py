"""Which of a cell's measured configurations is the best."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from autotune.db.records import Measurement, Status
from autotune.separation import TIE, time_ratio
from autotune.strategies.config import Config

APART_TIE = 0.02  # medians this close are a tie if they were not taken in turn


@dataclass(frozen=True, slots=True)
class Best:
    """The winner of a cell."""

    config: Config
    margin: float | None  # runner-up's time / winner's time - 1; None without a runner-up


def best_config(
    tried: Mapping[Config, Measurement],
    memory_limit_bytes: int,
    defaults: Collection[Config],
    *,
    raced: bool = False,
) -> Best | None:
    """The fastest configuration that is right and fits; None where there is none.

    A tie goes to the default, then to less memory. After a race the default loses only to what is faster beyond doubt.

    Args:
        tried: what came of each configuration.
        memory_limit_bytes: a peak above this is out.
        defaults: who wins a tie.
        raced: whether the times are rounds of one race.

    >>> from autotune.db.records import Status
    >>> def measured(ms): return Measurement(status=Status.OK, times_ms=(ms,), peak_memory_bytes=1)
    >>> tried = {Config.of("plain"): measured(1.01), Config.of("fancy"): measured(1.0), Config.of("slow"): measured(2)}
    >>> best_config(tried, 10, defaults={Config.of("plain")}).config.text
    'plain()'
    """
    feasible = {config: m for config, m in tried.items() if fits(m, memory_limit_bytes)}
    if not feasible:
        return None
    # Who was dropped from a race has fewer rounds, and has lost.
    longest = max(len(m.times_ms) for m in feasible.values()) if raced else 0
    fastest = min((m for m in feasible.values() if len(m.times_ms) >= longest), key=_time_ms)
    tied = [
        config
        for config, m in feasible.items()
        if _ties(m, fastest, raced=raced, in_doubt=config in defaults) or m is fastest
    ]
    winner = min(tied, key=lambda c: (c not in defaults, feasible[c].peak_memory_bytes or 0, _time_ms(feasible[c])))
    others = [_ratio(m, feasible[winner], raced=raced) for config, m in feasible.items() if config != winner]
    return Best(winner, min(others) - 1 if others else None)


def fits(measurement: Measurement, memory_limit_bytes: int) -> bool:
    """Whether a configuration ran, is right and stayed within the limit."""
    timed = measurement.status is Status.OK and measurement.time_ms is not None
    return timed and (measurement.peak_memory_bytes or 0) <= memory_limit_bytes


def _ties(mine: Measurement, fastest: Measurement, *, raced: bool, in_doubt: bool) -> bool:
    if not raced:
        return _time_ms(mine) <= _time_ms(fastest) * (1 + APART_TIE)
    ratio = time_ratio(mine.times_ms, fastest.times_ms)
    return not ratio.slower and (in_doubt or ratio.estimate <= 1 + TIE)


def _ratio(mine: Measurement, other: Measurement, *, raced: bool) -> float:
    return time_ratio(mine.times_ms, other.times_ms).estimate if raced else _time_ms(mine) / _time_ms(other)


def _time_ms(measurement: Measurement) -> float:
    assert measurement.time_ms is not None
    return measurement.time_ms
