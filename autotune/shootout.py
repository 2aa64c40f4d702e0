"""A race in interleaved rounds that goes on while it is open, and drops who has lost."""

import statistics
from collections.abc import Callable, Sequence

from autotune.separation import time_ratio

Times = list[tuple[float, ...]]  # milliseconds of each round, for each contestant

LEAST_ROUNDS = 2  # whatever the budget


def shoot_out(
    clock: Callable[[int], float], contestants: int, *, rounds: int, budget_s: float, extra_rounds: int = 0
) -> Times:
    """Time contestants in turn, so that whatever disturbs the machine disturbs all of them alike.

    Each look at an open race doubles the rounds before the next, so that there are few.

    Args:
        clock: runs the contestant of that number once; milliseconds.
        contestants: how many there are.
        rounds: how often each is timed.
        budget_s: no new round begins after this many seconds; there are 2 rounds at least.
        extra_rounds: so many more are added, among those who may still win, while one of them may be slower than
            the fastest or not.

    Returns:
        Milliseconds of each round, for each contestant; whoever was dropped has fewer.

    >>> [len(times) for times in shoot_out([2.0, 1.0, 1.0].__getitem__, 3, rounds=3, budget_s=60, extra_rounds=20)]
    [3, 3, 3]
    """
    times: list[list[float]] = [[] for _ in range(contestants)]
    running, spent_ms, look = list(range(contestants)), 0.0, rounds
    for number in range(rounds + extra_rounds):
        if number >= LEAST_ROUNDS and spent_ms > budget_s * 1e3:
            break
        if number == look:
            running = still_open(times, running)
            look *= 2
        if not running:
            break
        # Each round starts with another contestant: being first, or after a given one, is nobody's privilege.
        for place in range(len(running)):
            index = running[(number + place) % len(running)]
            times[index].append(clock(index))
            spent_ms += times[index][-1]
    return [tuple(each) for each in times]


def still_open(times: Sequence[Sequence[float]], running: Sequence[int]) -> list[int]:
    """Who may still win, the fastest included; nobody if more rounds would change nothing."""
    fastest = min(running, key=lambda index: statistics.median(times[index]))
    ratios = {index: time_ratio(times[index], times[fastest]) for index in running if index != fastest}
    if all(ratio.settled for ratio in ratios.values()):
        return []
    return [index for index in running if index == fastest or not ratios[index].slower]
