"""Which compiled graphs there are, and which may still be made: a new length is no reason to compile."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace

import torch

from autotune.strategies.catalog import strategy_of
from autotune.strategies.compiling import OFF
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

GRAPHS_PER_CONFIG = 8


class Graphs:
    """The graphs that calls have compiled, by configuration."""

    def __init__(self) -> None:
        self._ready: defaultdict[Config, set[Hashable]] = defaultdict(set)
        self._full: set[Config] = set()

    def hindrance(self, problem: Problem, pattern: Pattern, config: Config, wanted: bool) -> str | None:
        """Why a configuration may not run just now, in one clause; None if it may.

        Args:
            problem: what is to be computed.
            pattern: the function.
            config: how.
            wanted: whether a graph for this very length is worth compiling: it was measured, or is warmed up.
        """
        graph = graph_of(problem, pattern, config)
        if graph is None or graph in self._ready[config]:
            return None
        if config in self._full or len(self._ready[config]) >= GRAPHS_PER_CONFIG:
            return f"its {GRAPHS_PER_CONFIG} graphs are compiled for other calls"
        if capturing():
            return "nothing compiles while a CUDA graph is captured; call `autotune.warmup` before"
        if not wanted and strategy_of(config).one_length_only(config):
            return "its graph would hold for this length only; `autotune.warmup` compiles it"
        return None

    def add(self, problem: Problem, pattern: Pattern, config: Config) -> None:
        """A call has run; its graph is there."""
        if (graph := graph_of(problem, pattern, config)) is not None:
            self._ready[config].add(graph)

    def fill(self, config: Config) -> None:
        """Torch refuses to compile this configuration once more."""
        self._full.add(config)


def graph_of(problem: Problem, pattern: Pattern, config: Config) -> Hashable | None:
    """What tells the graph of a call from others of the same configuration; None if it is not compiled.

    A graph for all lengths is still another one for length 1, and where query and key differ in length.
    """
    if config.string("compile", OFF) == OFF:
        return None
    if strategy_of(config).one_length_only(config):
        return problem, pattern
    query_len = min(problem.query_len, 2)
    kv_len = min(problem.kv_len, 2) + (problem.kv_len != problem.query_len)
    return replace(problem, query_len=query_len, kv_len=kv_len)


def capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
