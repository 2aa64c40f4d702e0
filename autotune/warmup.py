"""Compiling ahead: what a service runs before its first request."""

from collections.abc import Iterable, Sequence

import torch

from autotune.binding import Asked
from autotune.call import DENSE
from autotune.current import table
from autotune.decision import Decision
from autotune.environment import resolve_device
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem


def warmup(
    problems: Iterable[Problem],
    *,
    scale: float | None = None,
    pattern: Pattern = DENSE,
    accept: Sequence[Pattern] | None = None,
    memory_limit: int | None = None,
) -> list[Decision]:
    """Run each problem, compiling what its fastest configuration needs, so that calls like it compile nothing.

    Graphs are specialised: a call is like the one warmed up if its tensors lie together, or are a projection
    (B, L, H, D) with heads and length swapped (both are run, a graph each), if its scale is the same, and if both are
    made under ``torch.inference_mode`` or neither; whether gradients are enabled matters for training only. A
    configuration has at most 8 graphs; the decisions tell where they did not suffice.

    Only here are graphs compiled that hold for a single length that was not measured. Torch keeps what it compiles in
    ``TORCHINDUCTOR_CACHE_DIR``, so that the next process finds it; by default that is a temporary folder, which does
    not survive every restart of the machine.

    Args:
        problems: what will be called; on CUDA, on the current device.
        scale: as in `attention`, like the other arguments.
        pattern: the function to compute.
        accept: all functions that will do, in place of ``pattern``.
        memory_limit: bytes a call may take above its inputs.

    Returns:
        What runs for each problem from now on.

    Raises:
        AutotuneError: as `attention`.
    """
    patterns = (pattern,) if accept is None else tuple(accept)
    return [_warm(problem, scale, patterns, memory_limit) for problem in problems]


def _warm(problem: Problem, scale: float | None, patterns: Sequence[Pattern], memory_limit: int | None) -> Decision:
    asked = Asked(problem.causal, problem.group_size > 1, tuple(patterns), memory_limit)
    device = _device(problem)
    layouts = [_tensors(problem, device, swapped) for swapped in (False, True)]
    with torch.set_grad_enabled(problem.training):
        table().bind(asked, *layouts[0], ahead=True)
        for tensors in layouts:
            _, out = table().serve(asked, *tensors, scale)
            if problem.training:
                out.sum().backward()  # type: ignore[no-untyped-call]
        return table().bind(asked, *layouts[0]).decision


def _device(problem: Problem) -> torch.device:
    """The current device of the problem's kind.

    Raises:
        DeviceError: there is none.
    """
    if problem.device == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return resolve_device(problem.device)


def _tensors(problem: Problem, device: torch.device, swapped: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value of a problem, as they lie together or with heads and length swapped."""
    keys = (problem.kv_heads, problem.kv_len, problem.kv_device(device))
    query, key, value = (
        torch.zeros(
            (problem.batch, *((length, heads) if swapped else (heads, length)), problem.head_dim),
            dtype=problem.torch_dtype,
            device=home,
        )
        for heads, length, home in ((problem.heads, problem.query_len, device), keys, keys)
    )
    if swapped:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    for x in (query, key, value):
        x.requires_grad_(problem.training)
    return query, key, value
