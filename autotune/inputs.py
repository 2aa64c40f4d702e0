"""Reproducible inputs whose answer can be checked in every row."""

from dataclasses import dataclass

import torch

from autotune.strategies.problem import Problem


@dataclass(frozen=True, slots=True)
class Inputs:
    """Query (B, Hq, Lq, D), key and value (B, Hkv, Lk, D), and for training the gradient of the output."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    grad: torch.Tensor | None

    def checksum(self) -> tuple[float, ...]:
        """Sums that tell whether somebody has written into the tensors."""
        tensors = (self.query, self.key, self.value, self.grad)
        return tuple(float(x.detach().sum(dtype=torch.float64)) for x in tensors if x is not None)


def make_inputs(problem: Problem, device: torch.device, rows: torch.Tensor, *, seed: int = 0) -> Inputs:
    """Normal random tensors.

    The last channel of value is all ones (if there are others), so that every row of a right output ends in a one: the
    weights of each softmax sum to one. The gradient of the output is zero but for ``rows``, so that all gradients
    follow from those rows alone and can be checked exactly at any length.

    Args:
        problem: the shapes and dtype.
        device: where the tensors live; key and value in pinned memory of the host if that is their home.
        rows: query rows that will be checked, shape (R,).
        seed: of the random generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(heads: int, length: int, home: torch.device) -> torch.Tensor:
        shape = (problem.batch, heads, length, problem.head_dim)
        drawn = torch.randn(shape, generator=generator).to(problem.torch_dtype)
        return drawn.to(home) if home == device else drawn.pin_memory()

    query = normal(problem.heads, problem.query_len, device)
    key, value = (normal(problem.kv_heads, problem.kv_len, problem.kv_device(device)) for _ in range(2))
    if problem.head_dim > 1:
        value[..., -1] = 1.0
    if not problem.training:
        return Inputs(query, key, value, None)
    grad = torch.zeros_like(query)
    grad[:, :, rows] = normal(problem.heads, len(rows), device)
    for tensor in (query, key, value):
        tensor.requires_grad_()
    return Inputs(query, key, value, grad)
