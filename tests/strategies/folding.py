"""What tests of the kernels for CPUs share: operands, poisoned buffers, and the softmax they are held against."""

import math

import torch

from autotune.strategies.tiles import Span, Tile

POISON = 0x7FA57FA5
LSE_TOLERANCE = 4e-6


def tile(*, causal=False, fresh=True, multiplicity=1):
    return Tile(slice(0, 1), Span(0, 1), Span(0, 1), causal, fresh, multiplicity)


def draw(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def nothing_yet(query):
    """Rows that no fold has written, as `torch.empty` may give them."""
    return torch.full(query.shape, torch.nan), torch.full(query.shape[:3], torch.nan)


def fold_once(kernel, query, key, value, *, causal=False, multiplicity=1, scale=None):
    """Output and log-sum-exp of a single fold."""
    total, lse = nothing_yet(query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    kernel.fold(tile(causal=causal, multiplicity=multiplicity), query, key, value, total, lse, scale)
    return total, lse


def softmax(query, key, value, *, causal=False, scale=None, counts=1):
    """The definition in float64: output and log-sum-exp; `counts`: how often each key counts."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores + torch.as_tensor(counts, dtype=torch.float64).log()
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    lse = scores.logsumexp(-1)
    return torch.exp(scores - lse.unsqueeze(-1)) @ value, lse


def assert_lse(lse, right):
    assert float((lse.double() - right).abs().max()) <= LSE_TOLERANCE * max(1.0, float(right.abs().max()))


def poisoned(shape, dtype):
    """A buffer in which every number is a NaN that no arithmetic makes."""
    bits = torch.full(shape, POISON, dtype=torch.int32)
    return bits.view(dtype) if dtype.itemsize == 4 else (bits >> 16).to(torch.int16).view(dtype)


def strided(x):
    """The same numbers, but for the last dimension with poison between any two, and heads in steps of three."""
    batch, heads, length, width = x.shape
    return (
        poisoned((batch + 1, length * 2 + 1, heads * 3, width + 8), x.dtype)[1:, 1::2, 1::3, 4 : 4 + width]
        .transpose(1, 2)
        .copy_(x)
    )


def gradients(query, key, value, grad, *, causal=False, scale=None):
    """By autograd in float64: of query, key and value."""
    leaves = [x.double().requires_grad_() for x in (query, key, value)]
    out, _ = softmax(*leaves, causal=causal, scale=scale)
    return torch.autograd.grad(out, leaves, grad.double())
