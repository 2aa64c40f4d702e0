"""How long a sequence each implementation reaches under a limit of memory and time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from autotune.bench import open_run
from autotune.cells import Cell, Workload
from autotune.db.records import Measurement, Status
from autotune.environment import resolve_device
from autotune.observer import Observer
from autotune.strategies.errors import ConfigError
from autotune.strategies.suite import Implementation, Suite
from autotune.suite_run import Limits, SuiteRun
from autotune.units import format_bytes, format_ms

SHORTEST = 4096
LONGEST = 1 << 24
RESOLUTION = 0.125  # of the length: where the bisection ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far one implementation comes."""

    name: str
    seq_len: int | None  # the longest that was run and stayed within the limits; None if not even the shortest
    measurement: Measurement | None  # there
    stopped_at: int | None  # the shortest length known to be too long; None if none was
    reason: str  # why it is


def find_limits(
    suite: Suite,
    workload: Workload,
    *,
    device: str | None = None,
    limits: Limits | None = None,
    names: Sequence[str] = (),
    shortest: int = SHORTEST,
    longest: int = LONGEST,
    db: str | Path | None = None,
    observer: Observer | None = None,
    command: str = "autotune.find_limits()",
) -> Iterator[Reach]:
    """For each implementation in turn, the longest sequence within the limits, by doubling and bisection.

    A length that is predicted to be over a limit, from the strategy's estimate of memory and the time at shorter
    lengths, is not run; every length that is reported as reached has been run, and checked.

    Args:
        suite: the implementations; those of functions that are not among the workload's patterns are left out.
        workload: shapes and patterns; its lengths do not matter.
        device: ``cpu``, ``cuda`` or ``cuda:INDEX``; the best one present if None.
        limits: of memory and time.
        names: implementations to look at; all if empty.
        shortest: where the doubling begins.
        longest: where it ends.
        db: database path or URL; the default database if None.
        observer: told about progress.
        command: noted with the measurements.

    Raises:
        AutotuneError: an argument is out of range, or the database cannot be used.
    """
    target, named = resolve_device(device), suite.only(names).implementations
    if not 1 <= shortest <= longest:
        raise ConfigError(f"the shortest length is {shortest:,}, but must be from 1 to the longest, {longest:,}")
    cells = replace(workload, lengths=(shortest,)).cells(target)
    chosen = [each for each in named if any(each.serves(cell.pattern) for cell in cells)]
    with open_run(suite, cells[0], limits or Limits(), db, observer, command) as run:
        run.observer.rates_started()
        run.peak.measure()
        for number, implementation in enumerate(chosen, start=1):
            ladder = _Ladder(run, workload, target, implementation, place=(number, len(chosen)))
            yield ladder.climb(shortest, longest)


@dataclass(frozen=True, slots=True)
class _Ladder:
    """The lengths at which one implementation is tried."""

    run: SuiteRun
    workload: Workload
    device: torch.device
    implementation: Implementation
    place: tuple[int, int]  # number of this implementation, and how many there are
    measured: dict[int, Measurement] = field(default_factory=dict)
    excess: dict[int, str] = field(default_factory=dict)

    def climb(self, shortest: int, longest: int) -> Reach:
        """Double, then bisect."""
        reached, stopped_at = furthest(self._fits, shortest, longest)
        return Reach(
            name=self.implementation.name,
            seq_len=reached,
            measurement=self.measured[reached] if reached else None,
            stopped_at=stopped_at,
            reason=self.excess[stopped_at] if stopped_at else f"{longest:,} tokens are the longest that were tried",
        )

    def _fits(self, length: int) -> bool:
        cells = replace(self.workload, lengths=(length,)).cells(self.device)
        cell = next(cell for cell in cells if self.implementation.serves(cell.pattern))
        self.run.observer.cell_started(cell, *self.place, candidates=1)
        self.measured[length] = self.run.measure_one(cell, self.implementation).measurement
        self.excess[length] = _excess(self.measured[length], self.run.limits, cell)
        return not self.excess[length]


def furthest(
    fits: Callable[[int], bool], shortest: int, longest: int, resolution: float = RESOLUTION
) -> tuple[int | None, int | None]:
    """The longest length that fits, and the shortest found that does not, a share of ``resolution`` apart at most.

    >>> furthest(lambda length: length <= 100_000, 4096, 1 << 20)
    (98304, 106496)
    >>> furthest(lambda length: True, 4096, 10_000)
    (10000, None)
    """
    reached, stopped_at, length = None, None, shortest
    while stopped_at is None:
        if not fits(length):
            stopped_at = length
        elif length == longest:
            return length, None
        else:
            reached, length = length, min(2 * length, longest)
    while reached and stopped_at - reached > max(1, reached * resolution):
        middle = (reached + stopped_at) // 2
        if fits(middle):
            reached = middle
        else:
            stopped_at = middle
    return reached, stopped_at


def _excess(measurement: Measurement, limits: Limits, cell: Cell) -> str:
    """Which limit a measurement is beyond, in words; empty if none."""
    if measurement.status is not Status.OK:
        return f"{measurement.status}: {measurement.reason}"
    time_ms, peak = measurement.time_ms or 0.0, measurement.peak_memory_bytes or 0
    if time_ms > limits.call_s * 1e3:
        return f"takes {format_ms(time_ms)}; the limit is {format_ms(limits.call_s * 1e3)}"
    if peak > (limit := limits.memory_for(cell)):
        return f"takes {format_bytes(peak)}; the limit is {format_bytes(limit)}"
    return ""
