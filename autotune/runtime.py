"""The run-time API: attention that runs the fastest configuration known for the call at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from autotune.db.errors import StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.store import Store
from autotune.environment import environment_of, free_memory_bytes
from autotune.selector import Decision, Selector
from autotune.strategies.catalog import build
from autotune.strategies.config import Config
from autotune.strategies.errors import ProblemError, UnsupportedError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.problem import DTYPE_NAMES, Problem
from autotune.strategies.strategy import Attention

FREE_MEMORY_SHARE = 0.9  # what a call may take where the caller names no limit
MOST_BOUND = 10_000  # kinds of calls remembered: a decoding loop makes a new one with every token
DENSE = Dense()


@dataclass(frozen=True, slots=True)
class _Bound:
    decision: Decision
    attend: Attention


_bound: dict[Any, _Bound] = {}


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    pattern: Pattern = DENSE,
    accept: Sequence[Pattern] | None = None,
    memory_limit: int | None = None,
) -> torch.Tensor:
    """Attention by the fastest configuration known for these shapes that fits in memory.

    The signature of ``torch.nn.functional.scaled_dot_product_attention``, and its causal alignment. The database is
    read once; `reload` reads it again.

    Args:
        query: shape (B, Hq, Lq, D).
        key: shape (B, Hkv, Lk, D).
        value: shape (B, Hkv, Lk, D).
        attn_mask: served by torch's own attention, for the dense pattern only.
        dropout_p: likewise.
        is_causal: query i sees keys 0 .. i.
        scale: factor on the scores; 1 / sqrt(D) if None.
        enable_gqa: Hq may be a multiple of Hkv.
        pattern: the function to compute.
        accept: all functions that will do, in place of ``pattern``; the fastest that fits runs.
        memory_limit: bytes a call may take above its inputs; 90 % of the free memory if None.

    Returns:
        Shape (B, Hq, Lq, D).

    Raises:
        ProblemError: shapes that do not belong together.
        PatternError: the pattern does not fit the shapes.
        NothingFitsError: no known configuration fits in memory.
        UnsupportedError: nothing can compute this; no other function is put in its place.
    """
    patterns = (pattern,) if accept is None else tuple(accept)
    if attn_mask is not None or dropout_p:
        _require_dense(patterns, attn_mask, dropout_p)
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    bound = _bind(query, key, value, is_causal, enable_gqa, patterns, memory_limit)
    return bound.attend(query, key, value, scale=scale)


def explain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    pattern: Pattern = DENSE,
    accept: Sequence[Pattern] | None = None,
    memory_limit: int | None = None,
) -> Decision:
    """What `attention` does with the same arguments, and why.

    Raises:
        AutotuneError: as `attention`.
    """
    patterns = (pattern,) if accept is None else tuple(accept)
    if attn_mask is not None or dropout_p:
        _require_dense(patterns, attn_mask, dropout_p)
        problem = _problem_of(query, key, value, is_causal, enable_gqa)
        return Decision(
            problem=problem,
            pattern=DENSE,
            config=Config.of("sdpa", backend="auto"),
            source="caller",
            reason="attn_mask and dropout_p are served by torch's own attention",
            predicted_memory_bytes=problem.output_bytes,
        )
    return _bind(query, key, value, is_causal, enable_gqa, patterns, memory_limit).decision


def reload() -> None:
    """Read the database again; calls from now on see what has been tuned since."""
    selector_of.cache_clear()
    _bound.clear()


@lru_cache
def selector_of(device: torch.device) -> Selector:
    """The table of what is known of a device, read from the default database; empty if there is none yet."""
    try:
        with Store.open(default_database(), read_only=True) as store:
            return Selector(
                environment_of(device), store.records(device=device.type), store.choices(device=device.type)
            )
    except StoreNotFoundError:
        return Selector(environment_of(device), (), ())


def _bind(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool,
    enable_gqa: bool,
    patterns: tuple[Pattern, ...],
    memory_limit: int | None,
) -> _Bound:
    training = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    call = (
        query.shape, key.shape, value.shape, query.dtype, key.dtype, value.dtype, query.device,
        is_causal, enable_gqa, training, patterns, memory_limit,
    )  # fmt: skip
    if (bound := _bound.get(call)) is None:
        problem = _problem_of(query, key, value, is_causal, enable_gqa)
        free = int(FREE_MEMORY_SHARE * free_memory_bytes(query.device))
        limit = free if memory_limit is None else memory_limit
        decision = selector_of(query.device).choose(problem, patterns, limit)
        bound = _Bound(decision, build(problem, decision.pattern, decision.config))
        if len(_bound) >= MOST_BOUND:
            _bound.clear()
        _bound[call] = bound
    return bound


def _problem_of(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, enable_gqa: bool
) -> Problem:
    """The problem of a call.

    Raises:
        ProblemError: shapes that do not belong together.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim != 4:
            raise ProblemError(f"{name} has shape {tuple(tensor.shape)}, but must be (batch, heads, length, head_dim)")
    if key.shape != value.shape or (query.shape[0], query.shape[3]) != (key.shape[0], key.shape[3]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value))
        raise ProblemError(f"query, key and value are {shapes}, but must agree in batch, kv heads, length and head_dim")
    if len({query.dtype, key.dtype, value.dtype}) > 1 or query.dtype not in DTYPE_NAMES:
        dtypes = ", ".join(str(tensor.dtype) for tensor in (query, key, value))
        raise ProblemError(
            f"query, key and value are {dtypes}, but must share one of {', '.join(DTYPE_NAMES.values())}"
        )
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ProblemError(f"query has {query.shape[1]} heads and key {key.shape[1]}; equal, or pass enable_gqa=True")
    training = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return Problem(
        batch=query.shape[0],
        heads=query.shape[1],
        kv_heads=key.shape[1],
        query_len=query.shape[2],
        kv_len=key.shape[2],
        head_dim=query.shape[3],
        dtype=DTYPE_NAMES[query.dtype],
        causal=is_causal,
        direction="training" if training else "forward",
        device=query.device.type,
    )


def _require_dense(patterns: tuple[Pattern, ...], attn_mask: torch.Tensor | None, dropout_p: float) -> None:
    """Masks and dropout exist for the dense function only.

    Raises:
        UnsupportedError: the caller accepts no dense attention.
    """
    if DENSE not in patterns:
        option = "attn_mask" if attn_mask is not None else f"dropout_p={dropout_p}"
        raise UnsupportedError(f"{option} is given with {patterns[0].label}, but only Dense() takes it; leave it out")
