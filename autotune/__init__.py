"""Measure every implementation of attention on your device once, then always run the fastest that fits.

Importing this package is cheap: torch is loaded with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.current import reload
    from autotune.decision import Decision, NothingFitsError
    from autotune.hugging_face import register_transformers
    from autotune.knowledge import AutotuneWarning
    from autotune.replacement import replace_sdpa
    from autotune.runtime import attention, explain
    from autotune.strategies.config import Config
    from autotune.strategies.errors import AutotuneError
    from autotune.strategies.pattern import Dense
    from autotune.strategies.pattern_block_layout import BlockLayout
    from autotune.strategies.pattern_block_sparse import LocalWindow
    from autotune.strategies.pattern_blocks import BlockSparse
    from autotune.strategies.pattern_dilated import Dilated
    from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
    from autotune.strategies.pattern_strided import Strided
    from autotune.strategies.problem import Problem
    from autotune.tuning import tune
    from autotune.warmup import warmup

__version__ = "0.1.0"

__all__ = [
    "AutotuneError",
    "AutotuneWarning",
    "BlockLayout",
    "BlockSparse",
    "Config",
    "Decision",
    "Dense",
    "Dilated",
    "GlobalWindowRandom",
    "LocalWindow",
    "NothingFitsError",
    "Problem",
    "Strided",
    "attention",
    "explain",
    "register_transformers",
    "reload",
    "replace_sdpa",
    "tune",
    "warmup",
]

_HOMES = {
    "AutotuneError": "autotune.strategies.errors",
    "AutotuneWarning": "autotune.knowledge",
    "BlockLayout": "autotune.strategies.pattern_block_layout",
    "BlockSparse": "autotune.strategies.pattern_blocks",
    "Config": "autotune.strategies.config",
    "Decision": "autotune.decision",
    "Dense": "autotune.strategies.pattern",
    "Dilated": "autotune.strategies.pattern_dilated",
    "GlobalWindowRandom": "autotune.strategies.pattern_global_window_random",
    "LocalWindow": "autotune.strategies.pattern_block_sparse",
    "NothingFitsError": "autotune.decision",
    "Problem": "autotune.strategies.problem",
    "Strided": "autotune.strategies.pattern_strided",
    "attention": "autotune.runtime",
    "explain": "autotune.runtime",
    "register_transformers": "autotune.hugging_face",
    "reload": "autotune.current",
    "replace_sdpa": "autotune.replacement",
    "tune": "autotune.tuning",
    "warmup": "autotune.warmup",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
