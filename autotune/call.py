"""A call of `attention` as tensors, and the problem it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autotune.strategies.errors import ProblemError
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import DTYPE_NAMES, KvHome, Problem
from autotune.strategies.strategy import Attention

DENSE = Dense()
DEVICES = ("cpu", "cuda")
PLAIN = (torch.Tensor, torch.nn.Parameter)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Call:
    """What a call looks like.

    Args:
        problem: what strategies are asked; None where only torch's own attention takes the call.
        lead: the batch dimensions of the output, all of which are ``batch`` to the problem.
        plain: the tensors have the problem's shapes as they are.
        only_torch: why only torch's own attention takes the call, in one clause.
    """

    problem: Problem | None
    lead: tuple[int, ...] = ()
    plain: bool = True
    only_torch: str = ""


def describe(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, enable_gqa: bool) -> Call:
    """The call that tensors make.

    Raises:
        ProblemError: shapes, dtypes or devices that do not belong together.
    """
    tensors = (query, key, value)
    if reason := _foreign(tensors):
        return Call(None, only_torch=reason)
    _require_one_dtype(tensors)
    home = kv_home(*(x.device for x in tensors))
    lead, heads, kv_heads = _broadcast(tensors, enable_gqa)
    sizes = (query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1], heads, kv_heads)
    if reason := _odd(lead, sizes, key, value):
        if home == "host":
            raise ProblemError(f"{reason}, on {key.device} beside query on {query.device}; move key and value there")
        return Call(None, only_torch=reason)
    batch = torch.Size(lead).numel()
    plain = [(batch, heads, query.shape[-2], query.shape[-1])]
    plain += [(batch, kv_heads, key.shape[-2], query.shape[-1])] * 2
    training = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    problem = Problem(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        query_len=query.shape[-2],
        kv_len=key.shape[-2],
        head_dim=query.shape[-1],
        dtype=DTYPE_NAMES[query.dtype],
        causal=is_causal,
        direction="training" if training else "forward",
        device=query.device.type,
        kv_home=home,
    )
    return Call(problem, lead, plain == [tuple(x.shape) for x in tensors])


def fitted(attend: Attention, call: Call) -> Attention:
    """An implementation for four dimensions, for a call whose tensors have others or broadcast."""
    assert call.problem is not None
    batch, heads, kv_heads = call.problem.batch, call.problem.heads, call.problem.kv_heads

    def attend_broadcast(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
    ) -> torch.Tensor:
        query, key, value = (
            x.expand(*call.lead, count, *x.shape[-2:]).reshape(batch, count, *x.shape[-2:])
            for x, count in ((query, heads), (key, kv_heads), (value, kv_heads))
        )
        return attend(query, key, value, scale=scale).reshape(*call.lead, heads, *query.shape[-2:])

    return attend_broadcast


def _foreign(tensors: Tensors) -> str | None:
    """Why tensors are none that strategies know."""
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            return f"{type(tensor).__name__} is a tensor of another kind"
        if tensor.is_nested or tensor.layout != torch.strided:
            return "a nested or sparse tensor"
        if tensor.device.type not in DEVICES:
            return f"device {tensor.device.type}"
        if tensor.ndim < 3:
            return f"{tensor.ndim} dimensions"
    return None


def _odd(lead: tuple[int, ...], sizes: Sequence[int], key: torch.Tensor, value: torch.Tensor) -> str | None:
    """Why shapes that belong together are still none of a `Problem`."""
    if 0 in (*lead, *sizes):
        return "a tensor without elements"
    if key.shape[-3] != value.shape[-3] and 1 not in (key.shape[-3], value.shape[-3]):
        return f"value with {value.shape[-3]} heads beside key with {key.shape[-3]}"
    if key.shape[-1] != value.shape[-1]:
        return f"value with head_dim {value.shape[-1]} beside {key.shape[-1]}"
    return None


def _require_one_dtype(tensors: Tensors) -> None:
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) > 1 or not dtypes <= set(DTYPE_NAMES):
        found = ", ".join(str(x.dtype) for x in tensors)
        raise ProblemError(f"query, key and value are {found}, but must share one of {', '.join(DTYPE_NAMES.values())}")


def kv_home(query: torch.device, key: torch.device, value: torch.device) -> KvHome:
    """Where key and value lie, seen from query.

    >>> kv_home(torch.device("cuda:0"), torch.device("cpu"), torch.device("cpu"))
    'host'

    Raises:
        ProblemError: neither all on one device, nor query on a GPU and the others in the host's memory.
    """
    if query == key == value:
        return "device"
    if query.type == "cuda" and key.type == value.type == "cpu":
        return "host"
    raise ProblemError(
        f"query, key and value are on {query}, {key}, {value}, but must be on one device; or key and value on the CPU, "
        "and query on a GPU"
    )


def _broadcast(tensors: Tensors, enable_gqa: bool) -> tuple[tuple[int, ...], int, int]:
    """The common batch dimensions, and the heads of query and key.

    Raises:
        ProblemError: there are none.
    """
    query, key, value = tensors
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
    problem = f"query, key and value are {shapes}, but must agree in batch, kv heads, length and head_dim"
    if key.shape[-2] != value.shape[-2] or query.shape[-1] != key.shape[-1]:
        raise ProblemError(problem)
    try:
        lead: tuple[int, ...] = torch.broadcast_shapes(*(x.shape[:-3] for x in tensors))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ProblemError(problem) from error
    heads, kv_heads, value_heads = (x.shape[-3] for x in tensors)
    if enable_gqa:
        if min(kv_heads, value_heads) < 1 or heads % kv_heads or heads % value_heads:
            raise ProblemError(f"heads is {heads}, but must be a multiple of kv_heads, {kv_heads}")
        return lead, heads, max(kv_heads, value_heads)
    counts = {heads, kv_heads, value_heads} - {1}
    if len(counts) > 1:
        raise ProblemError(f"query has {heads} heads and key {kv_heads}; equal, or pass enable_gqa=True")
    every = counts.pop() if counts else 1
    return lead, every, every
