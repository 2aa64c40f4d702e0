"""What a worker is asked to try, and trying it: build, gate, memory, time."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from autotune.db.records import Measurement, Status
from autotune.gate import Oracle, Outputs, checked_rows
from autotune.inputs import Inputs, make_inputs
from autotune.memory import lift_limit, limit_growth, peak_memory_bytes
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Attention, Strategy
from autotune.timing import race, time_repeats

Phase = Literal["prepare", "compile", "run"]
# As libraries say it, also from inside a compiler's error.
OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "out of memory", "ALLOC_FAILED")
REASON_CHARACTERS = 2000  # compilers print megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration to try on one device."""

    device: str
    problem: Problem
    pattern: Pattern
    strategy: Strategy
    config: Config
    threads: int  # of the coordinator, whose environment the measurement is stored under
    growth_limit_bytes: int  # allocations beyond this fail instead of taking the machine down
    timing_budget_s: float = 1.0
    drop_over_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Candidates of one cell that have passed the gate, to be timed in turn."""

    candidates: tuple[Candidate, ...]
    rounds: int
    budget_s: float


Times = list[tuple[float, ...]]  # milliseconds of each round, for each candidate


class Bench:
    """Tries candidates in this process, keeping inputs and oracle of the last problem."""

    def __init__(self) -> None:
        self._cell: tuple[str, Problem, Pattern] | None = None
        self._inputs: Inputs
        self._oracle: Oracle
        self._checksum: tuple[float, ...]

    def measure(self, candidate: Candidate, enter: Callable[[Phase], None]) -> Measurement:
        """Try a candidate; whatever it raises becomes a status.

        Args:
            candidate: what to try.
            enter: called when a phase begins, so that the coordinator can hold it to its deadline.
        """
        enter("prepare")
        try:
            self._prepare(candidate)
        except Exception as error:  # noqa: BLE001 - not the candidate's fault, whatever it is
            return Measurement(status=Status.SKIPPED, reason=f"no inputs and oracle: {error}"[:REASON_CHARACTERS])
        trial = _Trial(candidate, self._inputs, self._oracle, enter)
        try:
            if candidate.device == "cpu":
                limit_growth(candidate.growth_limit_bytes)
            return self._unless_spoilt(trial.measure())
        except Exception as error:  # noqa: BLE001 - the boundary: a candidate may raise anything at all
            return _failure(error, compiling=trial.compiling)
        finally:
            lift_limit()
            torch.compiler.reset()
            torch.cuda.empty_cache()  # the coordinator counts what is cached here as used; no-op without CUDA

    def _unless_spoilt(self, measurement: Measurement) -> Measurement:
        """The measurement, unless the candidate wrote into its inputs, which are then made anew."""
        if self._inputs.checksum() == self._checksum:
            return measurement
        self._cell = None
        return Measurement(status=Status.WRONG_RESULT, reason="the candidate writes into its inputs")

    def race(self, contest: Race, enter: Callable[[Phase], None]) -> Times:
        """Time candidates in turn; empty if one of them fails after all."""
        enter("prepare")
        self._prepare(contest.candidates[0])
        enter("compile")
        try:
            calls = []
            for candidate in contest.candidates:
                attend = candidate.strategy.build(candidate.problem, candidate.pattern, candidate.config)
                calls.append(partial(_call, attend, self._inputs))
                calls[-1]()
            enter("run")
            device = torch.device(contest.candidates[0].device)
            return race(calls, device, rounds=contest.rounds, budget_s=contest.budget_s)
        except Exception:  # noqa: BLE001 - the boundary: a candidate may raise anything at all
            return []
        finally:
            torch.compiler.reset()

    def _prepare(self, candidate: Candidate) -> None:
        if candidate.device != "cpu":
            torch.cuda.set_device(candidate.device)
        if torch.get_num_threads() != candidate.threads:
            torch.set_num_threads(candidate.threads)
        cell = (candidate.device, candidate.problem, candidate.pattern)
        if cell == self._cell:
            return
        rows = checked_rows(candidate.problem)
        self._cell = None
        self._inputs = make_inputs(candidate.problem, torch.device(candidate.device), rows)
        self._checksum = self._inputs.checksum()
        self._oracle = Oracle.of(candidate.problem, candidate.pattern, self._inputs, rows)
        self._cell = cell


@dataclass
class _Trial:
    """One candidate's way through the phases."""

    candidate: Candidate
    inputs: Inputs
    oracle: Oracle
    enter: Callable[[Phase], None]
    compiling: bool = True

    def measure(self) -> Measurement:
        problem, device = self.candidate.problem, torch.device(self.candidate.device)
        started = time.perf_counter()
        self.enter("compile")
        attend = self.candidate.strategy.build(problem, self.candidate.pattern, self.candidate.config)
        self.compiling = self.candidate.config.string("compile", "off") != "off"
        call = partial(_call, attend, self.inputs)
        outputs = call()
        self.compiling = False
        compiled = time.perf_counter()
        self.enter("run")
        verdict = self.oracle.judge(outputs)
        del outputs
        judged = time.perf_counter()
        checked = Measurement(
            status=Status.OK,
            rel_error=_finite(verdict.rel_error),
            max_abs_error=_finite(verdict.max_abs_error),
            compile_s=compiled - started,
            gate_s=judged - compiled,
        )
        if verdict.reason:
            return replace(checked, status=Status.WRONG_RESULT, reason=verdict.reason)
        peak = peak_memory_bytes(call, device)
        repeats = time_repeats(
            call,
            device,
            budget_s=self.candidate.timing_budget_s,
            drop_over_ms=self.candidate.drop_over_ms,
        )
        # Once more: an answer kept from the first call, or state gone stale, is fast and wrong.
        if again := self.oracle.judge(call()).reason:
            return replace(checked, status=Status.WRONG_RESULT, reason=f"after {2 + len(repeats)} calls: {again}")
        spent = time.perf_counter() - judged
        return replace(checked, times_ms=repeats, peak_memory_bytes=peak, timing_s=spent)


def _call(attend: Attention, inputs: Inputs) -> Outputs:
    """One forward pass, or one forward and backward pass."""
    out = attend(inputs.query, inputs.key, inputs.value)
    if inputs.grad is None:
        return (out,)
    return (out, *torch.autograd.grad(out, (inputs.query, inputs.key, inputs.value), inputs.grad))


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _failure(error: Exception, *, compiling: bool) -> Measurement:
    """The status of an exception."""
    text = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, UnsupportedError) or "No available kernel" in text:
        return Measurement(status=Status.UNSUPPORTED, reason=str(error))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return Measurement(status=Status.OOM, reason=text[:REASON_CHARACTERS])
    if compiling:
        return Measurement(status=Status.COMPILE_ERROR, reason=text[:REASON_CHARACTERS])
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{text[:REASON_CHARACTERS]} ({where.filename.rpartition('/')[2]}:{where.lineno})"
    return Measurement(status=Status.CRASHED, reason=reason)
