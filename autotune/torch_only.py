"""Calls that only torch's own attention takes: masks, dropout, tensors and shapes that strategies do not know."""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from autotune.call import DENSE, Call
from autotune.decision import Decision, NothingFitsError
from autotune.strategies.catalog import strategy_of
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.strategy import Attention
from autotune.units import format_bytes

BY_TORCH = Config.of("sdpa", backend="auto")
BY_MATH = Config.of("sdpa", backend="math")


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


def torch_decision(
    call: Call, query: torch.Tensor, value: torch.Tensor, reason: str, *, dropout: bool = False
) -> Decision:
    """The decision where only torch's own attention takes a call.

    What it needs is estimated where strategies know the problem: on the CPU, dropout builds all scores.

    Args:
        call: what query, key and value make.
        query: shape (..., Hq, Lq, D), or any where strategies do not know the problem.
        value: shape (..., Hkv, Lk, Dv), or any likewise.
        reason: why only torch's own takes it, in one clause.
        dropout: whether there is dropout.

    Raises:
        UnsupportedError: key and value are not on the device.
    """
    if (problem := call.problem) is None:
        # A tensor without dimensions has no last one: what to say of it, torch knows.
        width, value_width = (x.shape[-1:].numel() for x in (query, value))
        need = query.numel() // max(1, width) * value_width * query.element_size()
        basis = "the output alone"
    else:
        config = BY_MATH if dropout and problem.device == "cpu" else BY_TORCH
        if (refusal := strategy_of(config).refusal(problem, DENSE)) is not None:
            raise UnsupportedError(f"{reason}, and {config.strategy} {refusal}; move key and value there")
        need, basis = strategy_of(config).memory_bytes(problem, DENSE, config), "estimated"
    return Decision(
        problem=problem,
        pattern=DENSE,
        config=BY_TORCH,
        source="caller",
        reason=reason,
        predicted_memory_bytes=need,
        memory_basis=basis,
    )


def require_room(decision: Decision, memory_limit: int | None) -> None:
    """Nothing takes the place of torch's own attention where it needs too much.

    Raises:
        NothingFitsError: it is known to need more than the limit.
    """
    need = decision.predicted_memory_bytes
    if memory_limit is not None and need > memory_limit:
        raise NothingFitsError(
            f"memory limit is {format_bytes(memory_limit)}, but torch's own attention needs {format_bytes(need)} "
            f"({decision.memory_basis}), and {decision.reason}; raise the limit"
        )
