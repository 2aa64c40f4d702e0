"""The run-time API: attention that runs the fastest configuration known for the call at hand."""

from collections.abc import Sequence

import torch
from torch._C import _is_any_autocast_enabled as any_autocast  # the public one asks for each device
from torch._C._functorch import peek_interpreter_stack
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.compiler import is_dynamo_compiling

from autotune.binding import Asked
from autotune.call import DENSE, PLAIN
from autotune.current import plain_attention, table
from autotune.decision import Decision
from autotune.masked import masked_attention, masked_decision
from autotune.strategies.pattern import Pattern
from autotune.transforms import cast_for_autocast, transformed, under_autocast

Tensor = torch.Tensor
TRACED = (FakeTensor, FunctionalTensor)  # what tracers other than dynamo put in the place of tensors


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    pattern: Pattern = DENSE,
    accept: Sequence[Pattern] | None = None,
    memory_limit: int | None = None,
) -> Tensor:
    """Attention by the fastest configuration known for these shapes that fits in memory.

    The signature of ``torch.nn.functional.scaled_dot_product_attention``, its causal alignment and its broadcasting.
    The database is read once; `reload` reads it again. Runs under autocast, ``torch.func.grad``, ``vmap`` and
    ``torch.compile(fullgraph=True)``; in the last three its backward pass computes the forward pass again.

    Args:
        query: shape (..., Hq, Lq, D).
        key: shape (..., Hkv, Lk, D); with query on a GPU, key and value may lie in (pinned) memory of the host, and
            are brought to it chunk by chunk: dense attention, forward.
        value: shape (..., Hkv, Lk, D).
        attn_mask: served by torch's own attention, for the dense pattern only.
        dropout_p: likewise.
        is_causal: query i sees keys 0 .. i.
        scale: factor on the scores; 1 / sqrt(D) if None.
        enable_gqa: Hq may be a multiple of Hkv.
        pattern: the function to compute.
        accept: all functions that will do, in place of ``pattern``; the fastest that fits runs.
        memory_limit: bytes a call may take above its inputs; 90 % of the free memory, when such a call is first made,
            if None. With a mask or dropout, None is no limit, and ``torch.compile`` keeps to none.

    Returns:
        Shape (..., Hq, Lq, D).

    Raises:
        ProblemError: shapes that do not belong together.
        PatternError: the pattern does not fit the shapes.
        NothingFitsError: no known configuration fits in memory.
        UnsupportedError: nothing can compute this; no other function is put in its place.
    """
    if attn_mask is not None or dropout_p:
        return masked_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa,
            (pattern,) if accept is None else accept, memory_limit,
        )  # fmt: skip
    if (
        is_dynamo_compiling()
        or any_autocast()
        or peek_interpreter_stack() is not None
        or type(query) not in PLAIN
        or type(key) not in PLAIN
        or type(value) not in PLAIN
    ):
        return _under_transforms(
            query, key, value, is_causal, scale, enable_gqa, (pattern,) if accept is None else accept, memory_limit
        )
    return plain_attention(query, key, value, is_causal, scale, enable_gqa, pattern, accept, memory_limit)


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
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
        return masked_decision(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa, patterns, memory_limit)
    query, key, value = cast_for_autocast(query, key, value)
    asked = Asked(is_causal, enable_gqa, patterns, memory_limit)
    return table().bind(asked, query, key, value).decision


def _under_transforms(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    patterns: Sequence[Pattern],
    memory_limit: int | None,
) -> Tensor:
    """A call that autocast, a compiler, a function transform or a tensor of another kind has a say in."""
    if under_autocast(query):
        query, key, value = cast_for_autocast(query, key, value)
        with torch.autocast(query.device.type, enabled=False):
            return attention(
                query, key, value, None, 0.0, is_causal, scale, enable_gqa, accept=patterns, memory_limit=memory_limit
            )
    traced = any(isinstance(x, TRACED) for x in (query, key, value))
    if is_dynamo_compiling() or peek_interpreter_stack() is not None or traced:
        return transformed(query, key, value, is_causal, scale, enable_gqa, patterns, memory_limit)
    asked = Asked(is_causal, enable_gqa, tuple(patterns), memory_limit)
    return table().serve(asked, query, key, value, scale)[1]
