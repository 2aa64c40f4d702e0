"""Attention with a mask or dropout: torch's own computes it, within the limit on memory that the caller sets."""

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.functional import scaled_dot_product_attention

from autotune.call import describe
from autotune.decision import Decision
from autotune.strategies.pattern import Pattern
from autotune.torch_only import require_dense, require_room, torch_decision
from autotune.transforms import cast_for_autocast

Tensor = torch.Tensor


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    patterns: Sequence[Pattern],
    memory_limit: int | None,
) -> Tensor:
    """`attention` with a mask or dropout; shapes and errors as there.

    What is compiled knows no sizes yet, and is held to no limit.
    """
    if memory_limit is None or is_dynamo_compiling():
        _require_dense(patterns, attn_mask, dropout_p)
    else:
        masked_decision(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa, patterns, memory_limit)
    return scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def masked_decision(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    enable_gqa: bool,
    patterns: Sequence[Pattern],
    memory_limit: int | None,
) -> Decision:
    """What `explain` says of a call with a mask or dropout; shapes as there.

    Raises:
        ProblemError: the tensors do not belong together.
        NothingFitsError: it needs more than the limit.
        UnsupportedError: the caller accepts no dense attention, or key and value are not on the device.
    """
    _require_dense(patterns, attn_mask, dropout_p)
    query, key, value = cast_for_autocast(query, key, value)
    call = describe(query, key, value, is_causal, enable_gqa)
    reason = "attn_mask and dropout_p are served by torch's own attention"
    decision = torch_decision(call, query, value, reason, dropout=bool(dropout_p))
    require_room(decision, memory_limit)
    return decision


def _require_dense(patterns: Sequence[Pattern], attn_mask: Tensor | None, dropout_p: float) -> None:
    """The caller accepts dense attention; the option is named as it was written."""
    require_dense(patterns, "attn_mask" if attn_mask is not None else f"dropout_p={dropout_p}")
