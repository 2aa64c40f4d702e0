"""The run-time API: attention that runs the fastest configuration known for the call at hand.

A call that has been made before is one look-up in a dictionary: no database, no lock. Everything else is `binding`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch._C import _is_any_autocast_enabled as any_autocast  # the public one asks for each device
from torch._C._functorch import peek_interpreter_stack
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.compiler import is_dynamo_compiling

from autotune.binding import REMEDIABLE, Asked, Table
from autotune.call import DENSE, DEVICES, PLAIN, describe
from autotune.decision import Decision
from autotune.masked import masked_attention, masked_decision
from autotune.strategies.pattern import Pattern
from autotune.transforms import cast_for_autocast, transformed

Tensor = torch.Tensor
TRACED = (FakeTensor, FunctionalTensor)  # what tracers other than dynamo put in the place of tensors
_table = Table()


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
    training = (query.requires_grad or key.requires_grad or value.requires_grad) and torch.is_grad_enabled()
    call: tuple[Any, ...] = (
        query.shape, key.shape, value.shape, query.dtype, key.dtype, value.dtype,
        query.device, key.get_device(), value.get_device(), is_causal, enable_gqa, training,
    )  # fmt: skip
    if pattern is not DENSE or accept is not None or memory_limit is not None:
        call = (*call, pattern, None if accept is None else tuple(accept), memory_limit)
    table = _table
    if (attend := table.calls.get(call)) is not None:
        try:
            return attend(query, key, value, scale=scale)
        except REMEDIABLE as error:  # which is raised again if no other configuration can remedy it
            table.withdraw(call, attend, describe(query, key, value, is_causal, enable_gqa).problem, error)
    asked = Asked(is_causal, enable_gqa, (pattern,) if accept is None else tuple(accept), memory_limit)
    bound, out = table.serve(asked, query, key, value, scale)
    table.remember(call, bound)
    return out


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
    return _table.bind(asked, query, key, value).decision


def reload() -> None:
    """Read the database again; calls from now on see what has been tuned since."""
    global _table
    _table = Table()


def table() -> Table:
    """The table that calls are looked up in."""
    return _table


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
    if query.device.type in DEVICES and torch.is_autocast_enabled(query.device.type):
        query, key, value = cast_for_autocast(query, key, value)
        with torch.autocast(query.device.type, enabled=False):
            return attention(
                query, key, value, None, 0.0, is_causal, scale, enable_gqa, accept=patterns, memory_limit=memory_limit
            )
    traced = any(isinstance(x, TRACED) for x in (query, key, value))
    if is_dynamo_compiling() or peek_interpreter_stack() is not None or traced:
        return transformed(query, key, value, is_causal, scale, enable_gqa, patterns, memory_limit)
    asked = Asked(is_causal, enable_gqa, tuple(patterns), memory_limit)
    return _table.serve(asked, query, key, value, scale)[1]
