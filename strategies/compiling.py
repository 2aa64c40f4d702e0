"""The compile parameters that every strategy shares, and what they do."""

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch

from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice

P = ParamSpec("P")
T = TypeVar("T")

OFF = "off"
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def compile_choices(problem: Problem, *, optional: bool = True) -> tuple[Choice, ...]:
    """The choices ``compile`` and ``dynamic`` for code around vendor kernels.

    On the CPU there are no CUDA graphs and no kernel templates worth autotuning, so only the default mode is offered.

    Args:
        problem: the device decides which modes make sense.
        optional: whether running uncompiled is a choice.
    """
    modes = ("default",) if problem.device == "cpu" else MODES
    return (
        Choice("compile", ((OFF, *modes) if optional else modes)),
        Choice("dynamic", (False, True), when=("compile", modes)),
    )


def compiled(function: Callable[P, T], config: Config) -> Callable[P, T]:
    """Compile a function as the configuration says; the function itself if it says ``off``.

    Raises:
        ConfigError: the mode is unknown.
    """
    mode = config.string("compile", OFF)
    if mode == OFF:
        return function
    if mode not in MODES:
        raise ConfigError(f"compile is {mode!r}, but must be one of {', '.join((OFF, *MODES))}")
    return _compiled(function, mode, bool(config.get("dynamic", False)))


@lru_cache(maxsize=256)  # one graph cache for each function and mode, however often it is built
def _compiled(function: Callable[P, T], mode: str, dynamic: bool) -> Callable[P, T]:
    return torch.compile(function, mode=mode, dynamic=dynamic, fullgraph=True)
