"""Attention as an operator of torch: what compilers, function transforms and autocast see of it.

To them it is one opaque operation that decides when it runs, so that a graph for every length keeps its choice open.
Its backward pass is another one, which computes the forward pass again: an operator cannot hand on the graph of
whichever implementation it has run. That costs about 30 % of a training step's attention, and saves its memory.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from autotune.strategies.pattern import Pattern
from autotune.strategies.patterns import pattern_from_key

Tensor = torch.Tensor


def transformed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    patterns: Sequence[Pattern],
    memory_limit: int | None,
) -> Tensor:
    """`attention` as one operation; shapes as there."""
    # Canonical text, and no number of a table: compiled graphs outlive the process.
    functions = "\n".join([_key(pattern) for pattern in patterns])
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key, value, is_causal, scale, enable_gqa, functions, memory_limit
    )
    return out


def cast_for_autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as torch's own attention takes them under autocast: float64 stays as it is."""
    kind = query.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return query, key, value
    dtype = torch.get_autocast_dtype(kind)
    query, key, value = (
        x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in (query, key, value)
    )
    return query, key, value


@torch._dynamo.assume_constant_result  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _key(pattern: Pattern) -> str:
    return pattern.key


@lru_cache
def _patterns(functions: str) -> tuple[Pattern, ...]:
    return tuple(pattern_from_key(key) for key in functions.split("\n"))


@torch.library.custom_op("autotune::attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    functions: str,
    memory_limit: int | None,
) -> Tensor:
    from autotune.runtime import attention

    with torch.no_grad():
        out = attention(
            query, key, value, None, 0.0, is_causal, scale, enable_gqa,
            accept=_patterns(functions), memory_limit=memory_limit,
        )  # fmt: skip
    # An operator's output is none of its inputs, and has the strides that are promised below.
    return out.contiguous()


@_forward.register_fake
def _forward_shape(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None, enable_gqa: bool, *_: object
) -> Tensor:
    lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    heads = query.shape[-3:-2] if enable_gqa else torch.broadcast_shapes(query.shape[-3:-2], key.shape[-3:-2])
    return query.new_empty((*lead, *heads, query.shape[-2], value.shape[-1]))


@torch.library.custom_op("autotune::attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    functions: str,
    memory_limit: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from autotune.runtime import attention

    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in ("AutogradFunctionality", "ADInplaceOrView"):  # an operator runs below autograd
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    with (
        torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded),
        torch.enable_grad(),
    ):
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        out = attention(
            leaves[0], leaves[1], leaves[2], None, 0.0, is_causal, scale, enable_gqa,
            accept=_patterns(functions), memory_limit=memory_limit,
        )  # fmt: skip
        gradients = torch.autograd.grad(out, leaves, grad)
    d_query, d_key, d_value = (x.contiguous() for x in gradients)
    return d_query, d_key, d_value


@_backward.register_fake
def _backward_shapes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


class _Attention(torch.autograd.Function):
    """The operator's derivative and its batching rule."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, *options: Any) -> Tensor:
        result: Tensor = torch.ops.autotune.attention(query, key, value, *options)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _Gradients.apply(grad, *ctx.saved_tensors, *ctx.options)  # type: ignore[no-untyped-call]
        return (*gradients, *(None for _ in ctx.options))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        tensors = _batched(info.batch_size, in_dims[:3], inputs[:3])
        return _Attention.apply(*tensors, *inputs[3:]), 0  # type: ignore[no-untyped-call]


class _Gradients(torch.autograd.Function):
    """The backward operator and its batching rule; it has no derivative of its own."""

    @staticmethod
    def forward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *options: Any) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = torch.ops.autotune.attention_backward(grad, query, key, value, *options)
        return result

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Any:
        raise NotImplementedError("attention has no second derivative, like torch's own flash attention")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        tensors = [x.expand(info.batch_size, *x.shape[1:]) for x in _batched(info.batch_size, in_dims[:4], inputs[:4])]
        return _Gradients.apply(*tensors, *inputs[4:]), (0, 0, 0)  # type: ignore[no-untyped-call]


def _batched(size: int, in_dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mapped dimension first, as one more batch dimension, and all with equally many."""
    first = [x.unsqueeze(0) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, in_dims, strict=True)]
    most = max(x.ndim for x in first)
    return [x.reshape(x.shape[0], *(1,) * (most - x.ndim), *x.shape[1:]) for x in first]
