"""Which compiled graphs there are, and which may still be made: a new length is no reason to compile."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple

import torch

from autotune.strategies.catalog import strategy_of
from autotune.strategies.compiling import CUDA_GRAPH_MODES, OFF
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.strategy import Attention

GRAPHS_PER_CONFIG = 8  # and torch's own limit for a function that it compiles
FULL = f"its {GRAPHS_PER_CONFIG} graphs are compiled for other calls"


class Implementation(NamedTuple):
    """What is built once: a configuration for a function and a problem on a device."""

    device: torch.device
    problem: Problem
    pattern: Pattern
    config: Config

    @property
    def compiles(self) -> bool:
        """Whether a first call compiles."""
        return self.config.string("compile", OFF) != OFF

    @property
    def graph(self) -> Hashable | None:
        """What tells its graph from others of the same configuration; None if it is not compiled.

        A graph for all lengths is still another one for length 1, and where query and key differ in length.
        """
        if not self.compiles:
            return None
        problem = self.problem
        if strategy_of(self.config).one_length_only(self.config):
            return self.device, problem, self.pattern
        query_len = min(problem.query_len, 2)
        kv_len = min(problem.kv_len, 2) + (problem.kv_len != problem.query_len)
        return self.device, replace(problem, query_len=query_len, kv_len=kv_len)


class Graphs:
    """The graphs that calls have compiled, by configuration."""

    def __init__(self) -> None:
        self._ready: defaultdict[Config, set[Hashable]] = defaultdict(set)
        self._full: set[Config] = set()

    def hindrance(self, one: Implementation, wanted: bool) -> str | None:
        """Why an implementation may not run just now, in one clause; None if it may.

        Args:
            one: what would run.
            wanted: whether a graph for this very length is worth compiling: it was measured, or is warmed up.
        """
        graph, ready = one.graph, self._ready.get(one.config, ())
        if one.problem.kv_home == "host" and capturing():
            return "no CUDA graph can capture keys and values in the host's memory; move them to the GPU"
        if graph is not None and one.config.string("compile", OFF) in CUDA_GRAPH_MODES and capturing():
            return "it replays a CUDA graph of its own, and one is being captured"
        if graph is None or graph in ready:
            return None
        if one.config in self._full or len(ready) >= GRAPHS_PER_CONFIG:
            return FULL
        if capturing():
            return "nothing compiles while a CUDA graph is captured; call `autotune.warmup` before"
        if not wanted and strategy_of(one.config).one_length_only(one.config):
            return "its graph would hold for this length only; `autotune.warmup` compiles it"
        return None

    def add(self, one: Implementation) -> None:
        """A call has run; its graph is there."""
        if (graph := one.graph) is not None:
            self._ready[one.config].add(graph)

    def fill(self, config: Config) -> None:
        """Torch refuses to compile this configuration once more."""
        self._full.add(config)


def distinct(attend: Attention) -> Attention:
    """The callable, given three tensors: dynamo compiles another graph where one is passed twice."""

    def attend_to_three(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
    ) -> torch.Tensor:
        key = key.view_as(key) if key is query else key
        value = value.view_as(value) if value is key or value is query else value
        return attend(query, key, value, scale=scale)

    return attend_to_three


def capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()
