"""What the measured configurations say of the others, and which of those is the most promising.

A Gaussian process over the configurations of a cell (Rasmussen and Williams 2006, equations 2.25 and 2.26): the more
two of them have in common, the more alike their times. It learns the effect of each parameter's value by itself, which
is what a search of a few dozen measurements can learn. What is asked next promises the largest expected improvement
on the best (Jones, Schonlau and Welch 1998, equation 15).
"""

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from itertools import chain

import torch

from autotune.strategies.config import Config

NOISE = 0.3  # standard deviation of a log time about the sum of the effects: their interplay, and the measurement's
ROUNDING = 1e-9  # of an expected improvement: what is nearer together is the same


def covariance(configs: Sequence[Config]) -> torch.Tensor:
    """Of log times: something in common always, more in one strategy, the most with equal parameters.

    Returns:
        Shape (C, C), of C configurations.

    >>> views = [Config.of("ring", chunk_size=size, reads="views") for size in (1024, 512)]
    >>> covariance([*views, Config.of("sdpa")]).tolist()
    [[3.0, 2.5, 1.0], [2.5, 3.0, 1.0], [1.0, 1.0, 3.0]]
    """
    strategies = _indicators([{config.strategy} for config in configs])
    names = _indicators([{name for name, _ in config.params} for config in configs])
    values = _indicators([set(config.params) for config in configs])
    of_either = names.sum(dim=1)[:, None] + names.sum(dim=1) - names @ names.T
    equal = torch.where(of_either > 0, values @ values.T / of_either, 1.0)
    return 1.0 + strategies @ strategies.T * (1.0 + equal)


def _indicators(sets: Sequence[Set[Hashable]]) -> torch.Tensor:
    """A row for each set, a column for each element of any, 1 where it is in the set."""
    columns = {element: number for number, element in enumerate(dict.fromkeys(chain.from_iterable(sets)))}
    rows = torch.zeros(len(sets), len(columns), dtype=torch.float64)
    for row, elements in zip(rows, sets, strict=True):
        row[[columns[element] for element in elements]] = 1.0
    return rows


class Surrogate:
    """A model of the configurations' log times.

    Args:
        configs: all there are.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self._index = {config: index for index, config in enumerate(configs)}
        self._covariance = covariance(configs)

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
        return among[int((gain >= gain.max() * (1 - ROUNDING)).nonzero()[0])]


def _expected_improvement(lead: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Of normally distributed values that are expected to lie ``lead`` below the best one."""
    score = lead / deviation
    density = torch.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
    gain: torch.Tensor = lead * torch.special.ndtr(score) + deviation * density
    return gain
