"""How a pattern is computed: the interface every strategy implements."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch

from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import KvHome, Problem
from autotune.strategies.space import Space


class Attention(Protocol):
    """A bound implementation, ready to be called."""

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: shape (B, Hq, Lq, D).
            key: shape (B, Hkv, Lk, D).
            value: shape (B, Hkv, Lk, D).
            scale: factor on the scores; 1 / sqrt(D) if None.

        Returns:
            Shape (B, Hq, Lq, D).
        """
        ...


class Strategy(ABC):
    """One way to compute one or several patterns."""

    name: ClassVar[str]
    kv_homes: ClassVar[tuple[KvHome, ...]] = ("device",)  # where keys and values may lie

    def refusal(self, problem: Problem, pattern: Pattern) -> str | None:
        """Why the strategy cannot do this, in one clause; None if it can."""
        if problem.kv_home not in self.kv_homes:
            return "reads keys and values in the memory of the device only"
        return self.unsupported(problem, pattern)

    @abstractmethod
    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """Why it cannot do a problem whose ``kv_home`` it takes; None if it can. Callers ask for the `refusal`."""

    @abstractmethod
    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """Every configuration worth trying; the first is the default."""

    @abstractmethod
    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Estimated peak memory above the inputs, output included."""

    @abstractmethod
    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """A callable for this configuration.

        It computes ``pattern`` for inputs shaped like ``problem``, any batch, and never falls back to another
        implementation.

        Raises:
            UnsupportedError: the configuration cannot do the problem.
            ConfigError: a parameter is unknown or out of range.
        """

    def one_length_only(self, config: Config) -> bool:
        """Whether a compiled graph of the configuration holds for one length only."""
        return not config.get("dynamic", True)

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Floating-point operations the configuration executes; those of the function itself unless overridden."""
        return pattern.flops(problem)
