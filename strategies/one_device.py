"""Tensors of several devices are refused where torch's operators do not look."""

import torch

from autotune.strategies.errors import ProblemError


def require_one_device(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Query, key and value, of any shape, are on one device: some operators return what lies in memory if not.

    Raises:
        ProblemError: they are not.
    """
    if not query.device == key.device == value.device:
        raise ProblemError(
            f"query is on {query.device}, key on {key.device} and value on {value.device}; move them to one device"
        )
