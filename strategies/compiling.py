"""The compile parameters that every strategy shares, and what they do."""

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch

from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice

OFF = "off"
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def compile_choices(problem: Problem) -> tuple[Choice, ...]:
    """The choices ``compile`` and ``dynamic`` for code around a vendor kernel.

    On the CPU there are no CUDA graphs and no kernel templates worth autotuning, so only the default mode is offered.
    """
    modes = ("default",) if problem.device == "cpu" else MODES
    return (Choice("compile", (OFF, *modes)), Choice("dynamic", (False, True), when=("compile", modes)))


def compiled(function: Callable[..., Any], config: Config) -> Callable[..., Any]:
    """Compile a function as the configuration says; the function itself if it says ``off``.

    Raises:
        ConfigError: the mode is unknown.
    """
    mode = config.string("compile", OFF)
    if mode == OFF:
        return function
    if mode not in MODES:
        raise ConfigError(f"compile is {mode!r}, but must be one of {', '.join((OFF, *MODES))}")
    dynamic = bool(config.get("dynamic", False))
    # fullgraph: a graph break, or one recompilation too many, is an error here and never a silent eager fallback.
    graph = torch.compile(_own_code(function), mode=mode, dynamic=dynamic, fullgraph=True)
    return partial(_copied, graph) if mode in CUDA_GRAPH_MODES else graph


def _copied(graph: Callable[..., Any], *args: object, **options: object) -> torch.Tensor:
    """The output in memory of its own: the next call overwrites that of a CUDA graph."""
    out: torch.Tensor = graph(*args, **options)
    return out.clone()


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with its own code object: dynamo counts graphs by code object, over all who compile it.

    Only functions have one; dynamo wraps any other callable, a partial too, in a function that all of them share.
    """
    assert isinstance(function, FunctionType)
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
