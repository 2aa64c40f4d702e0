"""A row of bars in one line of text."""

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One bar for each value, on a log scale from ``low`` to ``high``; a dot where a value is missing.

    >>> sparkline([1.0, 10.0, None, 100.0], 1.0, 100.0)
    '▁▅·█'
    >>> sparkline([5.0, None], 5.0, 5.0)
    '▁·'
    """
    return "".join(GAP if value is None else BARS[_step(value, low, high)] for value in values)


def _step(value: float, low: float, high: float) -> int:
    share = math.log(value / low) / math.log(high / low) if high > low else 0.0
    return round(share * (len(BARS) - 1))
