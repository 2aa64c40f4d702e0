"""The table of calls that is in use, and attention by it.

A call that has been made before is one look-up in a dictionary: no database, no lock. Everything else is `binding`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from autotune.binding import REMEDIABLE, Asked, Table
from autotune.call import DENSE, describe
from autotune.strategies.pattern import Pattern

_table = Table()


def table() -> Table:
    """The table that calls are looked up in."""
    return _table


def reload() -> None:
    """Read the database again; calls from now on see what has been tuned since."""
    global _table
    _table = Table()


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    pattern: Pattern,
    accept: Sequence[Pattern] | None,
    memory_limit: int | None,
) -> torch.Tensor:
    """`attention` where nothing else has a say in it: no autocast, no transform; shapes and errors as there."""
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
