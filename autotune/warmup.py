"""Compiling ahead: what a service runs before its first request."""

from collections.abc import Iterable, Sequence

import torch

from autotune.binding import Asked
from autotune.call import DENSE
from autotune.decision import Decision
from autotune.environment import resolve_device
from autotune.runtime import attention, table
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem


def warmup(
    problems: Iterable[Problem],
    *,
    pattern: Pattern = DENSE,
    accept: Sequence[Pattern] | None = None,
    memory_limit: int | None = None,
) -> list[Decision]:
    """Run each problem once, compiling what its fastest configuration needs; later calls like it compile nothing.

    Only here are graphs compiled that hold for a single length that was not measured. Torch keeps what it compiles in
    ``TORCHINDUCTOR_CACHE_DIR``, so that the next process finds it; by default that is a temporary folder, which does
    not survive every restart of the machine.

    Args:
        problems: what will be called; their device type is that of this machine's first device.
        pattern: as in `attention`, like the other arguments: a call is like the one warmed up if all are the same.
        accept: all functions that will do, in place of ``pattern``.
        memory_limit: bytes a call may take above its inputs.

    Returns:
        What runs for each problem from now on.

    Raises:
        AutotuneError: as `attention`.
    """
    return [_warm(problem, pattern, accept, memory_limit) for problem in problems]


def _warm(problem: Problem, pattern: Pattern, accept: Sequence[Pattern] | None, memory_limit: int | None) -> Decision:
    query_shape = (problem.batch, problem.heads, problem.query_len, problem.head_dim)
    key_shape = (problem.batch, problem.kv_heads, problem.kv_len, problem.head_dim)
    query, key, value = (
        torch.zeros(
            shape,
            dtype=problem.torch_dtype,
            device=resolve_device(problem.device),
            requires_grad=problem.training,
        )
        for shape in (query_shape, key_shape, key_shape)
    )
    grouped = problem.group_size > 1
    asked = Asked(problem.causal, grouped, (pattern,) if accept is None else tuple(accept), memory_limit)
    table().bind(asked, query, key, value, ahead=True)
    out = attention(
        query, key, value, is_causal=problem.causal, enable_gqa=grouped, pattern=pattern, accept=accept,
        memory_limit=memory_limit,
    )  # fmt: skip
    if problem.training:
        out.sum().backward()  # type: ignore[no-untyped-call]
    return table().bind(asked, query, key, value).decision
