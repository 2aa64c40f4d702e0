"""How hard a search tries, as data."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["quick", "standard", "thorough", "exhaustive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one cell may cost."""

    trials: int | None  # configurations measured; None for all there are
    timing_budget_s: float  # repeats of one configuration
    compile_s: float  # deadline for build and first call
    run_s: float  # deadline for gate, memory and timing
    drop_factor: float  # a configuration this many times slower than the best is timed only once
    skip_factor: float  # one that was so much slower at a shorter length is not tried, unless a strategy's default
    finalists: int  # the fastest few, raced in turn
    rounds: int  # of the race
    extra_rounds: int  # more of them while the race is open
    race_s: float  # no new round after so many seconds


EFFORTS: dict[Level, Effort] = {
    "quick": Effort(
        trials=10,
        timing_budget_s=0.5,
        compile_s=60.0,
        run_s=30.0,
        drop_factor=1.5,
        skip_factor=2.0,
        finalists=8,
        rounds=5,
        extra_rounds=155,
        race_s=10.0,
    ),
    "standard": Effort(
        trials=25,
        timing_budget_s=1.0,
        compile_s=180.0,
        run_s=60.0,
        drop_factor=2.0,
        skip_factor=3.0,
        finalists=8,
        rounds=10,
        extra_rounds=390,
        race_s=30.0,
    ),
    "thorough": Effort(
        trials=60,
        timing_budget_s=2.0,
        compile_s=300.0,
        run_s=180.0,
        drop_factor=3.0,
        skip_factor=5.0,
        finalists=10,
        rounds=20,
        extra_rounds=780,
        race_s=120.0,
    ),
    "exhaustive": Effort(
        trials=None,
        timing_budget_s=2.0,
        compile_s=600.0,
        run_s=600.0,
        drop_factor=float("inf"),
        skip_factor=float("inf"),
        finalists=12,
        rounds=20,
        extra_rounds=780,
        race_s=300.0,
    ),
}
