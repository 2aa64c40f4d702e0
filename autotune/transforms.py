"""Attention as an operator of torch: what compilers, function transforms and autocast see of it.

To them it is one opaque operation that decides when it runs, so that a graph for every length keeps its choice open.
Its backward pass is another one, which computes the forward pass again: an operator cannot hand on the graph of
whichever implementation it has run. That costs about 30 % of a training step's attention, and saves its memory.
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import torch

from autotune.binding import Asked
from autotune.call import DENSE, DEVICES, PLAIN
from autotune.current import plain_attention, table
from autotune.strategies.pattern import Pattern
from autotune.strategies.patterns import pattern_from_key

Tensor = torch.Tensor
Gradients = tuple[Tensor, Tensor, Tensor]


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
    keys = [_key(type(pattern), *[getattr(pattern, name) for name in _fields(type(pattern))]) for pattern in patterns]
    asked = "\n".join([str(bool(is_causal)), str(bool(enable_gqa)), str(memory_limit), *keys])
    out: Tensor = _Attention.apply(query, key, value, asked, scale)  # type: ignore[no-untyped-call]
    return out


# Compilers run these two and keep what they return. A pattern that the model itself makes is none of their constants,
# but its class is, and so are its fields.
@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _fields(kind: type[Pattern]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _key(kind: type[Pattern], *values: object) -> str:
    return kind(*values).key


@lru_cache
def _parsed(asked: str) -> Asked:
    """The options in the text that `transformed` makes of them."""
    is_causal, enable_gqa, limit, *keys = asked.split("\n")
    memory_limit = None if limit == "None" else int(limit)
    return Asked(is_causal == "True", enable_gqa == "True", tuple(map(pattern_from_key, keys)), memory_limit)


def under_autocast(query: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    kind = query.device.type
    return kind in DEVICES and torch.is_autocast_enabled(kind)


def cast_for_autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as torch's own attention takes them under autocast: float64 stays as it is."""
    if not under_autocast(query):
        return query, key, value
    dtype = torch.get_autocast_dtype(query.device.type)
    query, key, value = (
        x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in (query, key, value)
    )
    return query, key, value


def _attend(query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None) -> Tensor:
    """What the operators run; an exported graph may be called under autocast."""
    if under_autocast(query):
        query, key, value = cast_for_autocast(query, key, value)
        with torch.autocast(query.device.type, enabled=False):
            return _attend(query, key, value, asked, scale)
    options = _parsed(asked)
    if any(type(x) not in PLAIN for x in (query, key, value)):
        return table().serve(options, query, key, value, scale)[1]
    return plain_attention(
        query, key, value, options.is_causal, scale, options.enable_gqa, DENSE, options.patterns, options.memory_limit
    )


@torch.library.custom_op("autotune::attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None) -> Tensor:
    with torch.no_grad():
        # In memory of its own, with the strides that are promised below.
        return _attend(query, key, value, asked, scale).contiguous()


@_forward.register_fake
def _forward_shape(query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None) -> Tensor:
    grouped = _parsed(asked).enable_gqa  # whose heads do not broadcast
    common = torch.broadcast_shapes(*(x.shape[: -3 if grouped else -2] for x in (query, key, value)))  # type: ignore[no-untyped-call]
    heads = query.shape[-3:-2] if grouped else ()
    return query.new_empty((*common, *heads, query.shape[-2], value.shape[-1]))


@torch.library.custom_op("autotune::attention_backward", mutates_args=())
def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in ("AutogradFunctionality", "ADInplaceOrView"):  # an operator runs below autograd
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    included = torch._C._dispatch_tls_local_include_set()
    # Autocast had its say before the forward pass.
    plain = torch.autocast(query.device.type, enabled=False)
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad(), plain:
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        out = _attend(leaves[0], leaves[1], leaves[2], asked, scale)
        d_query, d_key, d_value = torch.autograd.grad(out, leaves, grad)
    return d_query.contiguous(), d_key.contiguous(), d_value.contiguous()


@_backward.register_fake
def _backward_shapes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None
) -> Gradients:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


class _Attention(torch.autograd.Function):
    """The operator's derivative and its batching rule."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None) -> Tensor:
        result: Tensor = torch.ops.autotune.attention(query, key, value, asked, scale)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, value, ctx.asked, ctx.scale = inputs
        ctx.save_for_backward(query, key, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        gradients = _Gradients.apply(grad, query, key, value, ctx.asked, ctx.scale)  # type: ignore[no-untyped-call]
        return (*gradients, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        tensors = _batched(in_dims[:3], inputs[:3])
        return _Attention.apply(*tensors, *inputs[3:]), 0  # type: ignore[no-untyped-call]


class _Gradients(torch.autograd.Function):
    """The backward operator and its batching rule; it has no derivative of its own."""

    @staticmethod
    def forward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, asked: str, scale: float | None) -> Gradients:
        result: Gradients = torch.ops.autotune.attention_backward(grad, query, key, value, asked, scale)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("attention has no second derivative, like torch's own flash attention")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Gradients, tuple[int, int, int]]:
        # Each element has gradients of its own, also of what all share.
        tensors = [x.expand(info.batch_size, *x.shape[1:]) for x in _batched(in_dims[:4], inputs[:4])]
        gradients = _Gradients.apply(*tensors, *inputs[4:])  # type: ignore[no-untyped-call]
        shapes = [
            x.shape if dim is None else x.movedim(dim, 0).shape[1:]
            for x, dim in zip(inputs[1:4], in_dims[1:4], strict=True)
        ]
        d_query, d_key, d_value = (
            x.reshape(info.batch_size, *shape) for x, shape in zip(gradients, shapes, strict=True)
        )
        return (d_query, d_key, d_value), (0, 0, 0)


def _batched(in_dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mapped dimension first, as one more batch dimension, and all with equally many."""
    first = [x.unsqueeze(0) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, in_dims, strict=True)]
    most = max(x.ndim for x in first)
    return [x.reshape(x.shape[0], *(1,) * (most - x.ndim), *x.shape[1:]) for x in first]
