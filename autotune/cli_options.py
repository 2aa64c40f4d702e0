"""Turning command-line words into a workload."""

from collections.abc import Sequence
from typing import TypeVar

from autotune.cells import DEFAULT_PATTERNS, Workload
from autotune.strategies.problem import Direction
from autotune.units import UnitError, parse_lengths

N = TypeVar("N", int, float)


def workload(
    *,
    lengths: str | None,
    patterns: Sequence[str],
    batch: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int,
    dtype: str | None,
    causal: bool,
    direction: Direction,
    sparsity: str,
    segment_lengths: str | None,
    dilation_rates: str | None,
) -> Workload:
    """The workload that the options describe.

    Raises:
        UnitError: a list or length cannot be read.
    """
    return Workload(
        lengths=parse_lengths(lengths) if lengths else None,
        patterns=patterns or DEFAULT_PATTERNS,
        sparsities=_numbers("sparsity", sparsity, float),
        segment_lengths=parse_lengths(segment_lengths) if segment_lengths else None,
        dilation_rates=_numbers("dilation-rates", dilation_rates, int) if dilation_rates else None,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        causal=causal,
        direction=direction,
    )


def _numbers(name: str, text: str, kind: type[N]) -> tuple[N, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise UnitError(f"{name} is {text!r}, but must be numbers separated by commas") from error
