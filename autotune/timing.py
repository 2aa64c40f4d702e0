"""Raw repeats of a call."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from autotune.shootout import Times, shoot_out

MIN_REPEATS = 3
MAX_REPEATS = 50
PATIENCE = 10  # budgets that the repeats of a slow call may take instead of one

Result = TypeVar("Result")


def repeat_count(first_ms: float, budget_s: float) -> int:
    """How often to time a call that takes ``first_ms``.

    >>> repeat_count(1.0, 1.0), repeat_count(100.0, 1.0), repeat_count(9000.0, 1.0)
    (50, 10, 3)
    """
    return max(MIN_REPEATS, min(MAX_REPEATS, int(budget_s * 1e3 / max(first_ms, 1e-3))))


def slow_repeat_count(first_ms: float, budget_s: float) -> int:
    """How often to time a call that takes longer than the budget.

    >>> slow_repeat_count(2000.0, 1.0), slow_repeat_count(5000.0, 1.0), slow_repeat_count(60000.0, 1.0)
    (3, 2, 1)
    """
    return max(1, min(MIN_REPEATS, int(PATIENCE * budget_s * 1e3 / first_ms)))


def wall_s(call_ms: float, budget_s: float) -> float:
    """About how long it takes to check and time a call that needs no compilation.

    >>> wall_s(100.0, 1.0), wall_s(2000.0, 1.0), wall_s(60000.0, 1.0)
    (1.3, 6.0, 60.0)
    """
    if call_ms > budget_s * 1e3:
        return slow_repeat_count(call_ms, budget_s) * call_ms / 1e3
    # Checked first, watched for its memory, repeated, and checked last.
    return (3 + repeat_count(call_ms, budget_s)) * call_ms / 1e3


def time_repeats(
    call: Callable[[], Any], device: torch.device, *, budget_s: float, drop_over_ms: float | None = None
) -> tuple[float, ...]:
    """Time a warm call repeatedly.

    Args:
        call: what to time; it has run before.
        device: CUDA calls are timed by events, CPU calls by the monotonic clock.
        budget_s: seconds to spend on repeats, of which there are 3 to 50.
        drop_over_ms: a call whose first repeat is slower than this has lost, and is not repeated.

    Returns:
        Milliseconds of each repeat, in order.
    """
    first = time_once(call, device)
    if drop_over_ms is not None and first > drop_over_ms:
        return (first,)
    return (first, *(time_once(call, device) for _ in range(repeat_count(first, budget_s) - 1)))


def race(
    calls: Sequence[Callable[[], Any]], device: torch.device, *, rounds: int, budget_s: float, extra_rounds: int = 0
) -> Times:
    """Time warm calls in turn; see `shoot_out`."""
    return shoot_out(
        lambda index: time_once(calls[index], device),
        len(calls),
        rounds=rounds,
        budget_s=budget_s,
        extra_rounds=extra_rounds,
    )


def time_once(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call; freeing its result is not part of it."""
    return timed(call, device)[1]


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """The result of a call, and its milliseconds."""
    return _time_cuda(call) if device.type == "cuda" else _time_cpu(call)


def _time_cpu(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter_ns()
    result = call()
    return result, (time.perf_counter_ns() - start) / 1e6


def _time_cuda(call: Callable[[], Result]) -> tuple[Result, float]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    result = call()
    stop.record()
    torch.cuda.synchronize()
    return result, float(start.elapsed_time(stop))
