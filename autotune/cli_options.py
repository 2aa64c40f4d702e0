"""Turning command-line words into a workload."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from autotune.cells import DEFAULT_PATTERNS, DEFAULT_SPARSITIES, Workload
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.problem import Direction, KvHome
from autotune.strategies.suite import Suite
from autotune.units import UnitError, parse_lengths

N = TypeVar("N", int, float)


class MaskError(AutotuneError, ValueError):
    """A file that holds no block mask."""


def workload(
    *,
    lengths: str | None,
    patterns: Sequence[str | Pattern],
    batch: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int,
    dtype: str | None,
    causal: bool,
    direction: Direction | None,
    segment_lengths: str | None,
    dilation_rates: str | None,
    sparsity: str | None = None,
    kv_home: KvHome = "device",
) -> Workload:
    """The workload that the options describe.

    Raises:
        UnitError: a list or length cannot be read.
        MaskError: a pattern is a file that holds no block mask.
    """
    return Workload(
        lengths=parse_lengths(lengths) if lengths else None,
        patterns=[_pattern(each) for each in patterns] or DEFAULT_PATTERNS,
        sparsities=_numbers("sparsity", sparsity, float) if sparsity is not None else DEFAULT_SPARSITIES,
        segment_lengths=parse_lengths(segment_lengths) if segment_lengths else None,
        dilation_rates=_numbers("dilation-rates", dilation_rates, int) if dilation_rates else None,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        causal=causal,
        direction=direction or "forward",
        kv_home=kv_home,
    )


def suite_workloads(suite: Suite, *, lengths: str | None, direction: Direction | None, **shapes: Any) -> list[Workload]:
    """The workloads of a suite: its own lengths and directions where none are named.

    Raises:
        UnitError: a list or length cannot be read, or the suite has no use for an option.
    """
    if not any("dilated" in series.patterns for series in suite.series):
        for name in ("segment_lengths", "dilation_rates"):
            if text := shapes.get(name):
                option = name.replace("_", "-")
                raise UnitError(f"{option} is {text!r}, but suite {suite.name} has branches of its own; leave it out")
    found = []
    for each in suite.directions if direction is None else (direction,):
        for series in suite.series:
            work = workload(lengths=lengths, patterns=series.patterns, direction=each, **shapes)
            found.append(replace(work, lengths=work.lengths or series.lengths))
    return found


def _pattern(word: str | Pattern) -> str | Pattern:
    """A pattern or its name as it is; of a file, the block mask in it."""
    if isinstance(word, Pattern) or not word.endswith(".npy"):
        return word
    try:
        mask = np.load(word)
    except (OSError, ValueError, EOFError) as error:
        raise MaskError(f"block mask {word} cannot be read ({error}); make it with numpy.save") from error
    if mask.dtype != np.bool_:
        raise MaskError(f"block mask {word} holds {mask.dtype}, but must hold booleans")
    return BlockLayout.from_mask(torch.from_numpy(mask))


def _numbers(name: str, text: str, kind: type[N]) -> tuple[N, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise UnitError(f"{name} is {text!r}, but must be numbers separated by commas") from error
