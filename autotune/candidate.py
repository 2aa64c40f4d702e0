"""What a worker is asked to try, and trying it: build, gate, memory, time."""

import importlib
import sys
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
from autotune.memory import lift_limit, limit_growth, watch_memory
from autotune.out_of_memory import is_out_of_memory
from autotune.shootout import Times
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Attention, Strategy
from autotune.timing import race, slow_repeat_count, time_once, time_repeats, timed

Phase = Literal["receive", "prepare", "compile", "run"]
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

    @property
    def compiles(self) -> bool:
        """Whether building it takes torch's compiler."""
        return self.config.string("compile", "off") != "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Candidates that have passed the gate, to be timed in turn: of one device, each with inputs of its own problem."""

    candidates: tuple[Candidate, ...]
    rounds: int
    budget_s: float
    extra_rounds: int = 0  # while it is open who wins


class Bench:
    """Tries candidates in this process, keeping inputs and oracle of the last cell."""

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
            _clean_up()

    def _unless_spoilt(self, measurement: Measurement) -> Measurement:
        """The measurement, unless the candidate wrote into its inputs, which are then made anew."""
        if self._inputs.checksum() == self._checksum:
            return measurement
        self._cell = None
        return Measurement(status=Status.WRONG_RESULT, reason="the candidate writes into its inputs")

    def race(self, contest: Race, enter: Callable[[Phase], None]) -> Times:
        """Time candidates in turn; empty if one of them fails after all."""
        enter("prepare")
        try:
            inputs: dict[Problem, Inputs] = {}
            for candidate in contest.candidates:
                _load_compiler(candidate)
                if candidate.problem not in inputs:
                    inputs[candidate.problem] = self._inputs_of(candidate)
            if contest.candidates[0].device == "cpu":
                limit_growth(min(candidate.growth_limit_bytes for candidate in contest.candidates))
            calls = []
            for candidate in contest.candidates:
                enter("compile")  # a deadline each
                attend = candidate.strategy.build(candidate.problem, candidate.pattern, candidate.config)
                calls.append(partial(_call, attend, inputs[candidate.problem]))
                calls[-1]()
            enter("run")
            device = torch.device(contest.candidates[0].device)
            rounds, extra_rounds = contest.rounds, contest.extra_rounds
            return race(calls, device, rounds=rounds, budget_s=contest.budget_s, extra_rounds=extra_rounds)
        except Exception:  # noqa: BLE001 - the boundary: a candidate may raise anything at all
            return []
        finally:
            _clean_up()

    def _prepare(self, candidate: Candidate) -> None:
        """Have inputs and oracle of the candidate's cell at hand."""
        _load_compiler(candidate)
        inputs = self._inputs_of(candidate)
        if (cell := (candidate.device, candidate.problem, candidate.pattern)) == self._cell:
            return
        self._cell, self._inputs = None, inputs
        self._checksum = self._inputs.checksum()
        self._oracle = Oracle.of(candidate.problem, candidate.pattern, self._inputs, checked_rows(candidate.problem))
        self._cell = cell

    def _inputs_of(self, candidate: Candidate) -> Inputs:
        """Those at hand if they will do, else new ones."""
        _set_up(candidate)
        if self._cell is not None and self._cell[:2] == (candidate.device, candidate.problem):
            return self._inputs
        return make_inputs(candidate.problem, torch.device(candidate.device), checked_rows(candidate.problem))


def _set_up(candidate: Candidate) -> None:
    """Have torch use the candidate's device and threads."""
    if candidate.device != "cpu":
        torch.cuda.set_device(candidate.device)
    if torch.get_num_threads() != candidate.threads:
        torch.set_num_threads(candidate.threads)


def _load_compiler(candidate: Candidate) -> None:
    """Load what a candidate is compiled with: seconds that it should not have to answer for."""
    if candidate.compiles:
        importlib.import_module("torch._inductor.compile_fx")


def _clean_up() -> None:
    """Leave nothing of a candidate behind for the next one."""
    lift_limit()
    if "torch._dynamo" in sys.modules:  # else there are no graphs, and this would load the compiler
        torch.compiler.reset()
    torch.cuda.empty_cache()  # the coordinator counts what is cached here as used; no-op without CUDA


@dataclass
class _Trial:
    """One candidate's way through the phases."""

    candidate: Candidate
    inputs: Inputs
    oracle: Oracle
    enter: Callable[[Phase], None]
    compiling: bool = True

    def measure(self) -> Measurement:
        candidate, device = self.candidate, torch.device(self.candidate.device)
        started = time.perf_counter()
        self.enter("compile")
        attend = candidate.strategy.build(candidate.problem, candidate.pattern, candidate.config)
        self.compiling = candidate.compiles
        call = partial(_call, attend, self.inputs)
        (outputs, first_ms), first_peak = watch_memory(partial(timed, call, device), device, exact=False)
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
        if not candidate.compiles and first_ms > candidate.timing_budget_s * 1e3:
            repeats = self._repeat_slow(call, first_ms, first_peak, device)
        else:
            repeats = self._repeat(call, device)
        # Once more: an answer kept from the first call, or state gone stale, is fast and wrong.
        if repeats.last and (again := self.oracle.judge(repeats.last).reason):
            return replace(checked, status=Status.WRONG_RESULT, reason=f"after {1 + repeats.calls} calls: {again}")
        spent = time.perf_counter() - judged
        return replace(checked, times_ms=repeats.times_ms, peak_memory_bytes=repeats.peak_memory_bytes, timing_s=spent)

    def _repeat(self, call: Callable[[], Outputs], device: torch.device) -> "_Repeats":
        """Watch the memory of a call that has run before, then time it."""
        _, peak = watch_memory(call, device)
        budget_s, drop_over_ms = self.candidate.timing_budget_s, self.candidate.drop_over_ms
        times_ms = time_repeats(call, device, budget_s=budget_s, drop_over_ms=drop_over_ms)
        return _Repeats(times_ms, peak, call(), calls=len(times_ms) + 2)

    def _repeat_slow(
        self, call: Callable[[], Outputs], first_ms: float, first_peak: int, device: torch.device
    ) -> "_Repeats":
        """Let the first call count as a repeat: beside its time, loading libraries and touching pages is nothing.

        It counts for the memory too if it is the only one.
        """
        drop_over_ms = self.candidate.drop_over_ms
        dropped = drop_over_ms is not None and first_ms > drop_over_ms
        count = 1 if dropped else slow_repeat_count(first_ms, self.candidate.timing_budget_s)
        if count == 1:
            return _Repeats((first_ms,), first_peak, last=None, calls=0)
        times_ms = (first_ms, *(time_once(call, device) for _ in range(count - 1)))
        outputs, peak = watch_memory(call, device)
        return _Repeats(times_ms, peak, outputs, calls=count)


@dataclass(frozen=True, slots=True)
class _Repeats:
    """What came of calling a candidate again."""

    times_ms: tuple[float, ...]
    peak_memory_bytes: int
    last: Outputs | None  # of the last call; None if it was not called again
    calls: int  # after the first


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
    if is_out_of_memory(error):
        return Measurement(status=Status.OOM, reason=text[:REASON_CHARACTERS])
    if compiling:
        return Measurement(status=Status.COMPILE_ERROR, reason=text[:REASON_CHARACTERS])
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{text[:REASON_CHARACTERS]} ({where.filename.rpartition('/')[2]}:{where.lineno})"
    return Measurement(status=Status.CRASHED, reason=reason)
