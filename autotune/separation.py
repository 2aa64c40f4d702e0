"""Whether one contestant of a race is slower than another, from rounds in which they were timed in turn.

The times of one round met the same disturbances, so what is judged is the log ratio of each round. Their level is the
20 % trimmed mean, and the interval around it Tukey and McLaughlin's (Sankhya A 25, 1963): a t interval whose width
comes from the winsorised variance. Rounds that another process disturbed neither shift nor widen it, as they would a
paired t-test, and unlike rank tests and the bootstrap it holds from two rounds on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

TIE = 0.005  # a ratio this near to one is a tie, however surely it is known
CONFIDENCE = 0.99  # of one interval, two-sided; seven looks at a growing race are right together in 93 % (Bonferroni)
TRIM = 0.2  # of the rounds, at either end


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times the reference's time another one takes, with its interval."""

    estimate: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether it is beyond doubt, and by more than a tie."""
        return self.low > 1 and self.estimate > 1 + TIE

    @property
    def settled(self) -> bool:
        """Whether more rounds would change nothing: it is slower, or a tie, whichever of the two may be ahead."""
        return self.slower or (self.high <= 1 + TIE and self.low >= 1 / (1 + TIE))


def time_ratio(times: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Compare two contestants by the rounds that both ran.

    >>> ratio = time_ratio([2.1, 2.2, 8.0, 2.0, 2.1, 2.2], [2.0, 2.1, 2.0, 1.9, 2.0, 2.1])
    >>> f"{ratio.estimate:.3f} in {ratio.low:.3f} to {ratio.high:.3f}", ratio.slower
    ('1.050 in 1.042 to 1.058', True)
    >>> time_ratio([1.0], [2.0])
    Ratio(estimate=0.5, low=0.0, high=inf)
    """
    logs = sorted(math.log(mine / theirs) for mine, theirs in zip(times, reference, strict=False))
    cut = int(TRIM * len(logs))
    kept = logs[cut : len(logs) - cut]
    level = math.fsum(kept) / len(kept)
    if len(logs) < 2:
        return Ratio(math.exp(level), 0.0, math.inf)
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    mean = math.fsum(winsorised) / len(winsorised)
    variance = math.fsum((each - mean) ** 2 for each in winsorised) / (len(winsorised) - 1)
    error = math.sqrt(variance / len(logs)) / (1 - 2 * cut / len(logs))
    half_width = min(student_t(CONFIDENCE, len(kept) - 1) * error, 700.0)  # exp takes no more
    return Ratio(math.exp(level), math.exp(level - half_width), math.exp(level + half_width))


@lru_cache
def student_t(confidence: float, freedom: int) -> float:
    """The t that a share ``confidence`` of Student's distribution lies within, on both sides of zero.

    >>> [round(student_t(0.95, freedom), 3) for freedom in (1, 2, 9, 30)]
    [12.706, 4.303, 2.262, 2.042]
    """
    low, high = 0.0, math.pi / 2  # of the angle; t = tan(angle) * sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _share_within(angle: float, freedom: int) -> float:
    """Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    cosine = math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
