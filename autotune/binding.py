"""The table of calls: for each kind of call made so far, the callable that serves it, and why that one."""

from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from autotune.call import DENSE, Call, describe, fitted, require_dense, torch_attention
from autotune.decision import Decision, NothingFitsError
from autotune.environment import free_memory_bytes
from autotune.graphs import FULL, Graphs, Implementation
from autotune.knowledge import read_selector
from autotune.out_of_memory import is_out_of_memory
from autotune.selector import Selector
from autotune.strategies.catalog import build
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Attention

FREE_MEMORY_SHARE = 0.9  # what a call may take where the caller names no limit
MOST_CALLS = 10_000  # kinds of calls remembered: a decoding loop makes a new one with every token
REMEDIABLE = (RuntimeError, MemoryError, FailOnRecompileLimitHit)  # by another configuration, sometimes
BY_TORCH = Config.of("sdpa", backend="auto")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a call, beside its tensors."""

    is_causal: bool
    enable_gqa: bool
    patterns: tuple[Pattern, ...]
    memory_limit: int | None


@dataclass(frozen=True, slots=True)
class Bound:
    """The callable that serves a call, and why that one."""

    decision: Decision
    attend: Attention
    device: torch.device

    @property
    def implementation(self) -> Implementation:
        """What is built, of a call that strategies are asked for."""
        decision = self.decision
        assert decision.problem is not None
        return Implementation(self.device, decision.problem, decision.pattern, decision.config)


class Table:
    """What is known of every device asked for, and what runs for every kind of call made; swapped as a whole.

    ``calls`` is read without a lock; all else happens under one, save the calls themselves.
    """

    def __init__(self) -> None:
        self.calls: dict[Hashable, Attention] = {}
        self._bound: dict[Hashable, Bound] = {}  # by the keys of `calls`
        self._decided: dict[Hashable, Bound] = {}  # by what is asked
        self._selectors: dict[torch.device, Selector] = {}
        self._built: dict[Implementation, Attention] = {}
        self._ruled_out: dict[Implementation, str] = {}  # and why
        self._ceilings: dict[tuple[torch.device, Problem], dict[Pattern, int]] = {}  # less than what ran out of memory
        self._graphs = Graphs()
        self._lock = Lock()

    def serve(
        self, asked: Asked, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> tuple[Bound, torch.Tensor]:
        """Serve a call of a new kind: by what, and the output.

        Raises:
            AutotuneError: as `bind`.
        """
        failure: BaseException | None = None
        while True:
            try:
                bound = self.bind(asked, query, key, value)
            except NothingFitsError as error:
                raise error from failure
            try:
                out = bound.attend(query, key, value, scale=scale)
            except REMEDIABLE as error:
                self._learn(bound, error)
                failure = error.with_traceback(None)  # frames hold tensors
            else:
                self._note_graph(bound)
                return bound, out

    def bind(
        self, asked: Asked, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, ahead: bool = False
    ) -> Bound:
        """What serves a call; with ``ahead``, a graph for one length only may be compiled for it.

        Raises:
            AutotuneError: the tensors do not belong together, or nothing can serve them.
        """
        call = describe(query, key, value, asked.is_causal, asked.enable_gqa)
        if call.problem is None:
            require_dense(asked.patterns, call.only_torch)
            decision = torch_decision(call, query, f"{call.only_torch} is served by torch's own attention")
            return Bound(decision, torch_attention(asked.is_causal, asked.enable_gqa), query.device)
        kind = (call, asked, query.device)
        with self._lock:
            bound = self._decided.get(kind)
            if bound is None or ahead or self._hindrance(bound.implementation, wanted=True):
                bound = self._decide(call, call.problem, asked, query.device, ahead)
                if len(self._decided) >= MOST_CALLS:
                    self._decided.clear()
                self._decided[kind] = bound
        return bound

    def withdraw(self, call: Hashable, error: BaseException) -> None:
        """Forget what served a call and has failed; the next one is served by another.

        Raises:
            BaseException: the error, if choosing another cannot remedy it.
        """
        if (bound := self._bound.get(call)) is None:  # another thread was faster
            return
        self._learn(bound, error)
        self.calls.pop(call, None)

    def _decide(self, call: Call, problem: Problem, asked: Asked, device: torch.device, ahead: bool) -> Bound:
        if device not in self._selectors:
            self._selectors[device] = read_selector(device)
        free = int(FREE_MEMORY_SHARE * free_memory_bytes(device))
        decision = self._selectors[device].choose(
            problem,
            asked.patterns,
            free if asked.memory_limit is None else asked.memory_limit,
            ceilings=self._ceilings.get((device, problem), {}),
            hindrance=lambda pattern, config, measured: self._hindrance(
                Implementation(device, problem, pattern, config), wanted=measured or ahead
            ),
        )
        attend = self._build(Implementation(device, problem, decision.pattern, decision.config))
        return Bound(decision, attend if call.plain else fitted(attend, call), device)

    def _hindrance(self, one: Implementation, wanted: bool) -> str | None:
        return self._ruled_out.get(one) or self._graphs.hindrance(one, wanted)

    def _build(self, one: Implementation) -> Attention:
        """The same callable for every kind of call that it serves: another one would compile anew."""
        if one not in self._built:
            if len(self._built) >= MOST_CALLS:
                self._built = {kept: attend for kept, attend in self._built.items() if kept.compiles}
            self._built[one] = build(one.problem, one.pattern, one.config)
        return self._built[one]

    def _note_graph(self, bound: Bound) -> None:
        """An implementation has run: if it had to be compiled, it is."""
        with self._lock:
            if bound.decision.problem is not None:
                self._graphs.add(bound.implementation)

    def remember(self, call: Hashable, bound: Bound) -> None:
        """Serve calls like this one by the same callable from now on."""
        with self._lock:
            if len(self.calls) >= MOST_CALLS:
                self.calls.clear()
                self._bound.clear()
            self._bound[call] = bound
            self.calls[call] = bound.attend

    def _learn(self, bound: Bound, error: BaseException) -> None:
        """Take in that a callable has failed.

        Raises:
            BaseException: the error, if choosing another configuration cannot remedy it.
        """
        decision = bound.decision
        if decision.problem is None:
            raise error
        with self._lock:
            if is_out_of_memory(error):
                ceilings = self._ceilings.setdefault((bound.device, decision.problem), {})
                ceilings[decision.pattern] = decision.predicted_memory_bytes - 1
            elif isinstance(error, FailOnRecompileLimitHit) and decision.source != "default":
                self._graphs.fill(decision.config)
                self._ruled_out[bound.implementation] = FULL  # though it may have a graph for other strides or scales
            else:
                raise error
            self._decided = {kind: one for kind, one in self._decided.items() if one is not bound}


def torch_decision(call: Call, query: torch.Tensor, reason: str) -> Decision:
    """The decision where only torch's own attention takes a call."""
    problem = call.problem
    return Decision(
        problem=problem,
        pattern=DENSE,
        config=BY_TORCH,
        source="caller",
        reason=reason,
        predicted_memory_bytes=query.numel() * query.element_size() if problem is None else problem.output_bytes,
    )


def mask_decision(asked: Asked, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Decision:
    """The decision for a call with a mask or dropout.

    Raises:
        ProblemError: the tensors do not belong together.
    """
    call = describe(query, key, value, asked.is_causal, asked.enable_gqa)
    return torch_decision(call, query, "attn_mask and dropout_p are served by torch's own attention")
