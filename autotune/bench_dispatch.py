"""What `autotune.attention` adds to a call, against calling at once what it would have called.

Method: the bound callable returns its first argument, so that nothing but the dispatch is left to time, and no
kernel's noise hides it. Each round times one call of it and one of `attention`; the time added is the difference of
the quantiles of both. Once on one thread, once with several calling at the same time, each timing its own calls.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError, Thread

import click
import torch

from autotune.current import reload, table
from autotune.runtime import attention

CALLS = 20_000
WARM_UP = 2_000
THREADS = 8
MEDIAN_LIMIT_US, P99_LIMIT_US = 3.0, 10.0


@dataclass(frozen=True, slots=True)
class Added:
    """Microseconds that a call through `attention` takes longer."""

    threads: int
    calls: int
    median_us: float
    p99_us: float

    @property
    def within_limits(self) -> bool:
        """Whether both are small enough."""
        return self.median_us <= MEDIAN_LIMIT_US and self.p99_us <= P99_LIMIT_US


def run_dispatch() -> None:
    """Print the time added per call, alone and with many threads; exit code 1 if it is over the limits."""
    results = [added_time(1), added_time(THREADS)]
    for one in results:
        click.echo(
            f"{one.threads} thread{'s' if one.threads > 1 else ' '}: added per call: median {one.median_us:.2f} us "
            f"(limit {MEDIAN_LIMIT_US:g}), p99 {one.p99_us:.2f} us (limit {P99_LIMIT_US:g}), {one.calls:,} calls each"
        )
    if not all(one.within_limits for one in results):
        raise SystemExit(1)


def added_time(threads: int, calls: int = CALLS) -> Added:
    """Measure with so many threads calling at the same time."""
    query, key, value = tensors = tuple(torch.zeros(1, 2, 16, 8) for _ in range(3))
    times: list[tuple[list[int], list[int]]] = []
    start = Barrier(threads)
    workers = [Thread(target=_time, args=(tensors, calls, start, times)) for _ in range(threads)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether anything is tuned is beside the point
            reload()
            attention(query, key, value)
        (kind,) = table().calls
        table().calls[kind] = _nothing
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        start.abort()  # nobody waits for a thread that never came
        reload()  # no call of anybody else's is to be served by nothing
    direct = sorted(ns for one, _ in times for ns in one)
    through = sorted(ns for _, one in times for ns in one)
    median_us, p99_us = ((through[int(q * len(through))] - direct[int(q * len(direct))]) / 1e3 for q in (0.5, 0.99))
    return Added(threads, calls, median_us, p99_us)


def _nothing(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
) -> torch.Tensor:
    return query


def _time(
    tensors: Sequence[torch.Tensor], calls: int, start: Barrier, times: list[tuple[list[int], list[int]]]
) -> None:
    """Add the nanoseconds of each call of the bound callable, and of each through `attention`."""
    query, key, value = tensors
    now = time.perf_counter_ns
    direct, through = [0] * calls, [0] * calls
    try:
        start.wait()
    except BrokenBarrierError:
        return
    for index in range(-min(WARM_UP, calls), calls):
        began = now()
        _nothing(query, key, value, scale=None)
        between = now()
        attention(query, key, value)
        ended = now()
        direct[index], through[index] = between - began, ended - between  # rounds before the first are overwritten
    times.append((direct, through))
