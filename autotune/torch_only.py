"""Calls that only torch's own attention takes: masks, dropout, tensors and shapes that strategies do not know."""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from autotune.call import DENSE, Call
from autotune.decision import Decision
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.strategy import Attention

BY_TORCH = Config.of("sdpa", backend="auto")


def torch_attention(is_causal: bool, enable_gqa: bool) -> Attention:
    """Torch's own attention with the options filled in."""

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
    ) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)

    return attend


def require_dense(patterns: Sequence[Pattern], option: str) -> None:
    """What only torch's own attention takes exists for the dense function only.

    Raises:
        UnsupportedError: the caller accepts no dense attention.
    """
    if DENSE not in patterns:
        accepted = patterns[0].label if patterns else "no pattern"
        raise UnsupportedError(f"{option} is given with {accepted}, but only Dense() takes it; leave it out")


def torch_decision(call: Call, query: torch.Tensor, reason: str) -> Decision:
    """The decision where only torch's own attention takes a call."""
    problem = call.problem
    return Decision(
        problem=problem,
        pattern=DENSE,
        config=BY_TORCH,
        source="caller",
        reason=reason,
        predicted_memory_bytes=query.numel() * query.element_size() if problem is None else problem.output_bytes,
    )
