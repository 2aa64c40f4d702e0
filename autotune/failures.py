"""What has failed when it was called here: it does not run again, or not before there is more memory."""

from typing import NamedTuple

import torch

from autotune.graphs import Implementation
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

MORE_MEMORY = 1.25  # times what was free when memory ran out: enough for another try
REASON_CHARACTERS = 200


class _Ceiling(NamedTuple):
    """Less than what ran out of memory, and how much was free then."""

    most_bytes: int
    free_bytes: int


class Failures:
    """By implementation; memory by what it was wanted for."""

    def __init__(self) -> None:
        self._ceilings: dict[tuple[torch.device, Problem], dict[Pattern, _Ceiling]] = {}
        self._reasons: dict[Implementation, str] = {}

    def ceilings(self, device: torch.device, problem: Problem, free_bytes: int) -> dict[Pattern, int]:
        """For some patterns, the most that is worth trying with so much memory free."""
        held = self._ceilings.get((device, problem), {})
        return {
            pattern: ceiling.most_bytes
            for pattern, ceiling in held.items()
            if free_bytes < MORE_MEMORY * ceiling.free_bytes
        }

    def ran_out(self, one: Implementation, need_bytes: int, free_bytes: int) -> None:
        """Memory was short for what was thought to need so much; a ceiling that still holds only sinks."""
        most = self.ceilings(one.device, one.problem, free_bytes).get(one.pattern, need_bytes)
        held = self._ceilings.setdefault((one.device, one.problem), {})
        held[one.pattern] = _Ceiling(min(most, need_bytes - 1), free_bytes)

    def forget_memory(self, device: torch.device, problem: Problem) -> None:
        """Nothing is left to try: the next call begins anew, for memory may be free again."""
        self._ceilings.pop((device, problem), None)

    def reason(self, one: Implementation) -> str | None:
        """Why an implementation is ruled out, in one clause; None if it is not."""
        return self._reasons.get(one)

    def rule_out(self, one: Implementation, reason: str) -> None:
        """It does not run again."""
        self._reasons[one] = reason

    def acquit(self, device: torch.device, problem: Problem) -> None:
        """What the default fails in as well is the call's fault, not that of the implementations ruled out before."""
        self._reasons = {
            one: reason for one, reason in self._reasons.items() if (one.device, one.problem) != (device, problem)
        }


def short(error: BaseException) -> str:
    r"""An error in one clause.

    >>> short(RuntimeError("No available kernel.\nAborting execution."))
    'failed here: RuntimeError: No available kernel.'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"failed here: {type(error).__name__}: {lines[0][:REASON_CHARACTERS]}"
