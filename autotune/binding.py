"""The table of calls: for each kind of call made so far, the callable that serves it, and why that one."""

import math
import time
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from autotune.bound import Bound, OutdatedError, faster_with_more_memory
from autotune.call import Call, describe, fitted
from autotune.decision import Decision, NothingFitsError
from autotune.environment import free_memory_bytes
from autotune.failures import Failures, short
from autotune.graphs import FULL, Graphs, Implementation, capturing, distinct
from autotune.knowledge import AutotuneWarning, read_selector
from autotune.out_of_memory import is_out_of_memory
from autotune.selector import Selector
from autotune.strategies.catalog import build
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Attention
from autotune.torch_only import require_dense, require_room, torch_attention, torch_decision

FREE_MEMORY_SHARE = 0.9  # what a call may take where the caller names no limit
MOST_CALLS = 10_000  # kinds of calls remembered: a decoding loop makes a new one with every token
RECONSIDERED_S = 30.0  # how long a slower configuration serves because memory was short for a faster one
REMEDIABLE = (RuntimeError, MemoryError, FailOnRecompileLimitHit)  # by another configuration, sometimes


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a call, beside its tensors."""

    is_causal: bool
    enable_gqa: bool
    patterns: tuple[Pattern, ...]
    memory_limit: int | None


class Table:
    """What is known of every device asked for, and what runs for every kind of call made; swapped as a whole.

    ``calls`` is read without a lock. Decisions are made outside of it too: what has changed meanwhile shows when the
    callable runs, and is learnt then.
    """

    def __init__(self) -> None:
        self.calls: dict[Hashable, Attention] = {}
        self._bound: dict[Hashable, Bound] = {}  # by the keys of `calls`
        self._decided: dict[Hashable, Bound] = {}  # by what is asked
        self._selectors: dict[torch.device, Selector] = {}
        self._built: dict[Implementation, Attention] = {}
        self._failures = Failures()
        self._graphs = Graphs()
        self._lock = Lock()
        self._reading = Lock()

    def serve(
        self, asked: Asked, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> tuple[Bound, torch.Tensor]:
        """Serve a call of a new kind: by what, and the output.

        Raises:
            AutotuneError: as `bind`.
        """
        failure: BaseException | None = None
        tried: set[Implementation] = set()
        while True:
            try:
                bound = self.bind(asked, query, key, value)
            except NothingFitsError as error:
                raise error from failure
            try:
                out = bound.attend(query, key, value, scale=scale)
            except REMEDIABLE as error:
                self._learn(bound, error)
                if bound.implementation in tried:  # what was learnt of it, another thread has dropped
                    raise
                tried.add(bound.implementation)
                failure = error.with_traceback(None)  # frames hold tensors
            else:
                self._note_graph(bound)
                return bound, out

    def bind(
        self, asked: Asked, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, ahead: bool = False
    ) -> Bound:
        """What serves a call; with ``ahead``, anew, and by a graph for one length only if that is the fastest.

        Raises:
            AutotuneError: the tensors do not belong together, or nothing can serve them.
        """
        call = describe(query, key, value, asked.is_causal, asked.enable_gqa)
        if call.problem is None:
            require_dense(asked.patterns, call.only_torch)
            decision = torch_decision(call, query, value, f"{call.only_torch} is served by torch's own attention")
            require_room(decision, asked.memory_limit)
            return Bound(decision, torch_attention(asked.is_causal, asked.enable_gqa), query.device)
        kind = (call, asked, query.device)
        bound = self._decided.get(kind)
        if bound is None or ahead or bound.outdated or self._hindrance(bound.implementation, True):
            bound = self._decide(call, call.problem, asked, query.device, ahead)
            with self._lock:
                if ahead:
                    self._forget(bound.device, call.problem)
                if len(self._decided) >= MOST_CALLS:
                    self._decided.clear()
                self._decided[kind] = bound
        return bound

    def remember(self, call: Hashable, bound: Bound) -> None:
        """Serve calls like this one by the same callable from now on."""
        with self._lock:
            if len(self.calls) >= MOST_CALLS:
                self.calls.clear()
                self._bound.clear()
            self._bound[call] = bound
            self.calls[call] = bound.entry

    def withdraw(self, call: Hashable, attend: Attention, problem: Problem | None, error: BaseException) -> None:
        """Forget what served a call, if it still does, and has failed; the next one is served by another.

        Raises:
            BaseException: the error, if choosing another cannot remedy it; or if it is the tensors that are to blame,
                which make another problem than the one that is served, though their call looks like it.
        """
        outdated = isinstance(error, OutdatedError)
        with self._lock:
            if self.calls.get(call) is not attend:  # another thread was faster
                return
            if not outdated and self._bound[call].decision.problem != problem:
                raise error
            del self.calls[call]
            bound = self._bound.pop(call)
        if not outdated:
            self._learn(bound, error)

    def _forget(self, device: torch.device, problem: Problem) -> None:
        """Calls of a problem do not go on with what served them before."""
        for table in (self._decided, self._bound):
            for call, bound in list(table.items()):
                if (bound.device, bound.decision.problem) == (device, problem):
                    del table[call]
                    self.calls.pop(call, None)

    def _decide(self, call: Call, problem: Problem, asked: Asked, device: torch.device, ahead: bool) -> Bound:
        while True:
            decision, until_s = self._choose(problem, asked, device, ahead)
            one = Implementation(device, problem, decision.pattern, decision.config)
            try:
                attend = self._build(one)
            except (AutotuneError, RuntimeError) as error:
                self._rule_out(decision, one, error)
            else:
                return Bound(decision, attend if call.plain else fitted(attend, call), device, until_s)

    def _choose(self, problem: Problem, asked: Asked, device: torch.device, ahead: bool) -> tuple[Decision, float]:
        """The selector's choice, and until when it holds."""
        free = free_memory_bytes(device)
        room = int(FREE_MEMORY_SHARE * free) if asked.memory_limit is None else asked.memory_limit
        with self._lock:
            ceilings = self._failures.ceilings(device, problem, free)
        try:
            decision = self._selector(device).choose(
                problem,
                asked.patterns,
                room,
                ceilings=ceilings,
                hindrance=lambda pattern, config, measured: self._hindrance(
                    Implementation(device, problem, pattern, config), measured or ahead
                ),
            )
        except NothingFitsError:
            with self._lock:
                self._failures.forget_memory(device, problem)
            raise
        if capturing():
            return decision, -math.inf
        held_back = faster_with_more_memory(decision, room, ceilings, asked.memory_limit)
        return decision, time.monotonic() + RECONSIDERED_S if held_back else math.inf

    def _selector(self, device: torch.device) -> Selector:
        with self._reading:
            if device not in self._selectors:
                self._selectors[device] = read_selector(device)
            return self._selectors[device]

    def _hindrance(self, one: Implementation, wanted: bool) -> str | None:
        return self._failures.reason(one) or self._graphs.hindrance(one, wanted)

    def _build(self, one: Implementation) -> Attention:
        """The same callable for every kind of call that it serves: another one would compile anew."""
        if (attend := self._built.get(one)) is not None:
            return attend
        attend = build(one.problem, one.pattern, one.config)
        if one.compiles:
            attend = distinct(attend)
        if one.compiles and not one.problem.training:
            attend = torch.no_grad()(attend)  # else another graph would be compiled with gradients enabled
        with self._lock:
            if len(self._built) >= MOST_CALLS:
                self._built = {kept: attend for kept, attend in self._built.items() if kept.compiles}
            return self._built.setdefault(one, attend)

    def _note_graph(self, bound: Bound) -> None:
        """An implementation has run: if it had to be compiled, it is."""
        with self._lock:
            if bound.decision.problem is not None:
                self._graphs.add(bound.implementation)

    def _learn(self, bound: Bound, error: BaseException) -> None:
        """Take in that a callable has failed.

        Raises:
            BaseException: the error, if choosing another configuration cannot remedy it.
        """
        decision = bound.decision
        if decision.problem is None:
            raise error
        with self._lock:
            self._decided = {kind: one for kind, one in self._decided.items() if one is not bound}
        if not is_out_of_memory(error):
            self._rule_out(decision, bound.implementation, error)
        else:
            free = free_memory_bytes(bound.device)
            with self._lock:
                self._failures.ran_out(bound.implementation, decision.predicted_memory_bytes, free)

    def _rule_out(self, decision: Decision, one: Implementation, error: BaseException) -> None:
        """An implementation cannot do what it was chosen for; its next calls are served by another one, visibly.

        Raises:
            BaseException: the error, if it is the default's.
        """
        with self._lock:
            if decision.source == "default":
                self._failures.acquit(one.device, one.problem)
                raise error
            if isinstance(error, FailOnRecompileLimitHit):
                self._graphs.fill(one.config)
                self._failures.rule_out(one, FULL)  # though it may have a graph for other strides or scales
                return
            self._failures.rule_out(one, short(error))
        text = f"autotune: {one.config.text} for {one.problem.key} {short(error)}; another configuration runs"
        warnings.warn(text, AutotuneWarning, stacklevel=2)
