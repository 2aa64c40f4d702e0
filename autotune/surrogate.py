"""What the measured configurations say of the others, and which of those is the most promising.

A Gaussian process over the configurations of a cell (Rasmussen and Williams 2006, equations 2.25 and 2.26): the more
two of them have in common, the more alike their times. It learns the effect of each parameter's value by itself, which
is what a search of a few dozen measurements can learn. What is asked next promises the largest expected improvement
on the best (Jones, Schonlau and Welch 1998, equation 15).
"""

import math
from collections.abc import Mapping, Sequence

import torch

from autotune.strategies.config import Config

NOISE = 0.3  # standard deviation of a log time about the sum of the effects: their interplay, and the measurement's


def similarity(one: Config, other: Config) -> float:
    """The covariance of two log times: something in common always, more in one strategy, most with equal parameters.

    >>> one, other = Config.of("ring", chunk_size=1024, reads="views"), Config.of("ring", chunk_size=512, reads="views")
    >>> similarity(one, one), similarity(one, other), similarity(one, Config.of("sdpa"))
    (3.0, 2.5, 1.0)
    """
    if one.strategy != other.strategy:
        return 1.0
    names = {name for name, _ in (*one.params, *other.params)}
    return 2.0 + (len({*one.params} & {*other.params}) / len(names) if names else 1.0)


class Surrogate:
    """A model of the configurations' log times.

    Args:
        configs: all there are.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self._index = {config: index for index, config in enumerate(configs)}
        rows = [[similarity(one, other) for other in configs] for one in configs]
        self._covariance = torch.tensor(rows, dtype=torch.float64)

    def most_promising(self, among: Sequence[Config], known: Mapping[Config, float]) -> Config:
        """The one with the largest expected improvement; the first of those that promise the same.

        Args:
            among: configurations, at least one.
            known: log times of others, at least one.
        """
        seen = [self._index[config] for config in known]
        open_ = [self._index[config] for config in among]
        times = torch.tensor(list(known.values()), dtype=torch.float64)
        level = times.median()
        inverse = torch.linalg.inv(self._covariance[seen][:, seen] + NOISE**2 * torch.eye(len(seen)))
        weights = self._covariance[open_][:, seen] @ inverse
        mean = level + weights @ (times - level)
        variance = self._covariance[open_, open_] - (weights * self._covariance[open_][:, seen]).sum(dim=1)
        gain = _expected_improvement(times.min() - mean, variance.clamp(min=1e-12).sqrt())
        return among[int(gain.argmax())]


def _expected_improvement(lead: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Of normally distributed values that are expected to lie ``lead`` below the best one."""
    score = lead / deviation
    density = torch.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
    gain: torch.Tensor = lead * torch.special.ndtr(score) + deviation * density
    return gain
