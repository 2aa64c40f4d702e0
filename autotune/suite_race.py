"""Who is in a race of a suite: its rows, and what they are held against."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from autotune.contest import Contestant

SHORTEST_REFERENCE = 4096  # where the search for a reference begins


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
