"""A callable that serves a kind of call, and for how long."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autotune.decision import Decision
from autotune.graphs import Implementation, capturing
from autotune.strategies.pattern import Pattern
from autotune.strategies.strategy import Attention


@dataclass(frozen=True, slots=True)
class Bound:
    """The callable that serves a call, why that one, and until when (on the monotonic clock)."""

    decision: Decision
    attend: Attention
    device: torch.device
    until_s: float = math.inf

    @property
    def implementation(self) -> Implementation:
        """What is built, of a call that strategies are asked for."""
        decision = self.decision
        assert decision.problem is not None
        return Implementation(self.device, decision.problem, decision.pattern, decision.config)

    @property
    def outdated(self) -> bool:
        """Whether it is to be decided again what runs."""
        return time.monotonic() >= self.until_s

    @property
    def entry(self) -> Attention:
        """The callable, giving notice where it does not serve at any time, as while a CUDA graph is captured."""
        problem = self.decision.problem
        anytime = problem is None or (problem.kv_home == "device" and not self.implementation.compiles)
        if anytime and self.until_s == math.inf:
            return self.attend

        def attend_for_now(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
        ) -> torch.Tensor:
            if self.outdated or capturing():
                raise OutdatedError
            return self.attend(query, key, value, scale=scale)

        return attend_for_now


class OutdatedError(RuntimeError):
    """It is to be decided again what serves a call; never leaves this package."""


def faster_with_more_memory(
    decision: Decision, room: int, ceilings: Mapping[Pattern, int], memory_limit: int | None
) -> bool:
    """Whether a faster configuration would run if as much memory were free as the caller allows."""
    return any(
        (decision.predicted_ms is None or one.predicted_ms < decision.predicted_ms)
        and one.predicted_memory_bytes > min(room, ceilings.get(one.pattern, room))
        and (memory_limit is None or one.predicted_memory_bytes <= memory_limit)
        for one in decision.rejected
    )
