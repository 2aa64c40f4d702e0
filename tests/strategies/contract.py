"""What every implementation of every pattern must do, as checks that take the implementation as an argument.

`test_contract*.py` runs them over all strategies; `test_contract_itself.py` shows that each rejects a wrong one.
"""

from collections.abc import Callable
from functools import lru_cache

import naive
import torch

from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

Attention = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Largest relative L2 error of a row: a few roundings of the dtype, whatever the length.
ROW_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
# Largest relative L2 error of the gradient of one head; the probabilities in it are rounded once more.
GRADIENT_TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3.2e-2}


@lru_cache(maxsize=16)
def _drawn(problem: Problem, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    queries = (problem.batch, problem.heads, problem.query_len, problem.head_dim)
    keys = (problem.batch, problem.kv_heads, problem.kv_len, problem.head_dim)
    return tuple(torch.randn(shape, generator=generator).to(problem.torch_dtype) for shape in (queries, keys, keys))


def draw(problem: Problem, *, seed: int = 0) -> Tensors:
    """Fresh query, key and value of the problem's dtype."""
    return tuple(x.clone() for x in _drawn(problem, seed))


def sampled(problem: Problem, count: int = 24) -> list[int]:
    """Some query rows: both ends, and evenly between; all where there are few."""
    n = problem.query_len
    if n <= count:
        return list(range(n))
    return sorted({0, 1, n - 2, n - 1, *(round(i * (n - 1) / (count - 1)) for i in range(count))})


def row_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative L2 error over the rows; infinite where anything is not finite."""
    error = (out.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(error.max()) if bool(torch.isfinite(error).all()) else float("inf")


def assert_close(out: torch.Tensor, expected: torch.Tensor, problem: Problem, *, factor: float = 1.0) -> None:
    """Each row within the tolerance of the dtype (times `factor`)."""
    assert out.dtype == problem.torch_dtype
    assert out.shape == expected.shape
    assert row_error(out, expected) <= factor * ROW_TOLERANCE[problem.dtype]


def check_oracle(
    attention: Attention,
    problem: Problem,
    pattern: Pattern,
    *,
    queries: list[int] | None = None,
    inputs: Tensors | None = None,
    scale: float | None = None,
    factor: float = 1.0,
) -> None:
    """The output is the pattern's function, in all rows or in some."""
    q, k, v = draw(problem) if inputs is None else inputs
    out = attention(q, k, v) if scale is None else attention(q, k, v, scale=scale)
    rows = slice(None) if queries is None else queries
    expected = naive.attention(q[:, :, rows], k, v, naive.counts(pattern, problem, queries), scale)
    assert out.shape == q.shape
    assert_close(out[:, :, rows], expected, problem, factor=factor)


def check_constant_value(attention: Attention, problem: Problem, pattern: Pattern) -> None:
    """Weights sum to one in every row: equal values come out as they went in."""
    q, k, v = draw(problem)
    v = v[:, :, :1].expand_as(v).contiguous()
    per_head = v.repeat_interleave(problem.group_size, dim=1)[:, :, :1]
    assert_close(attention(q, k, v), per_head.expand_as(q).double(), problem)


def check_locality(attention: Attention, problem: Problem, pattern: Pattern, token: int) -> None:
    """A token's key and value reach all rows that see it, and not a trace of them reaches any other."""
    q, k, v = draw(problem)
    before = attention(q, k, v)
    k[:, :, token] = -k[:, :, token]
    v[:, :, token] = 1000.0  # a leak with a weight of 1e-8 would show
    change = (attention(q, k, v).double() - before.double()).abs().amax(-1)
    sees = (naive.counts(pattern, problem)[:, :, token] > 0).expand_as(change)
    assert bool((change[sees] > 1e-2).all())
    assert bool((change[~sees] <= 1e-6).all())


def check_inputs_untouched(attention: Attention, problem: Problem, pattern: Pattern) -> None:
    """Query, key and value are as they were, and the output shares no memory with them."""
    inputs = draw(problem)
    versions = [x._version for x in inputs]
    out = attention(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, draw(problem), strict=True))
    assert [x._version for x in inputs] == versions
    assert out.untyped_storage().data_ptr() not in {x.untyped_storage().data_ptr() for x in inputs}


def transposed(x: torch.Tensor) -> torch.Tensor:
    """The same numbers as a slice of a (B, L, H, D) buffer that is NaN everywhere else."""
    batch, heads, length, width = x.shape
    buffer = torch.full((batch + 1, length + 5, heads + 2, width + 8), torch.nan, dtype=x.dtype)
    view = buffer[1:, 3 : 3 + length, 1 : 1 + heads, 4 : 4 + width].transpose(1, 2)
    return view.copy_(x)


def every_other(x: torch.Tensor) -> torch.Tensor:
    """The same numbers with a NaN between any two, in all dimensions."""
    buffer = torch.full([2 * size for size in x.shape], torch.nan, dtype=x.dtype)
    return buffer[1::2, 1::2, 1::2, 1::2].copy_(x)


def expanded(x: torch.Tensor) -> torch.Tensor:
    """One batch element for all, without copies."""
    return x[:1].expand_as(x)


LAYOUTS = {"transposed": transposed, "every_other": every_other, "expanded": expanded}


def check_layout(attention: Attention, problem: Problem, pattern: Pattern, layout: str) -> None:
    """Strides do not matter, and nothing outside the view is read."""
    check_oracle(attention, problem, pattern, inputs=tuple(LAYOUTS[layout](x) for x in draw(problem)))


def _gradients(
    attention: Attention, inputs: Tensors, grad_out: torch.Tensor, wanted: tuple[bool, ...]
) -> list[torch.Tensor | None]:
    leaves = [x.detach().requires_grad_(on) for x, on in zip(inputs, wanted, strict=True)]
    attention(*leaves).backward(grad_out)
    return [leaf.grad for leaf in leaves]


def _heads_without_choice(counts: torch.Tensor, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key heads of which every row sees a single key: their softmax is constant, its gradient zero."""
    alone = (counts > 0).sum(-1).amax(-1) == 1
    return alone, alone.view(kv_heads, -1).all(-1)


def _assert_gradients_close(got: torch.Tensor, expected: torch.Tensor, problem: Problem, zero: torch.Tensor) -> None:
    assert got.dtype == problem.torch_dtype
    assert got.shape == expected.shape
    error = (got.double() - expected).flatten(2).norm(dim=-1)
    # Where the gradient is zero (by head), what rounding leaves is held against entries of size one.
    size = torch.where(zero, expected[0, 0].numel() ** 0.5, expected.flatten(2).norm(dim=-1))
    assert float((error / size).nan_to_num(nan=torch.inf).max()) <= GRADIENT_TOLERANCE[problem.dtype]


def check_gradients(
    attention: Attention,
    problem: Problem,
    pattern: Pattern,
    *,
    wanted: tuple[bool, ...] = (True, True, True),
    layout: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone,
    expanded_grad: bool = False,
    scale: float | None = None,
) -> None:
    """Gradients of query, key and value are those of the definition in float64; only the wanted ones are made."""
    inputs = draw(problem)
    grad_out = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(problem.torch_dtype)
    if expanded_grad:  # as `out.sum().backward()` gives it
        grad_out = torch.ones((), dtype=problem.torch_dtype).expand_as(grad_out)
    counts = naive.counts(pattern, problem)
    everything = (True, True, True)
    exact = [x.double() for x in inputs]
    expected = _gradients(lambda *x: naive.attention(*x, counts, scale), exact, grad_out.double(), everything)
    option = {} if scale is None else {"scale": scale}
    got = _gradients(lambda *x: attention(*x, **option), tuple(map(layout, inputs)), layout(grad_out), wanted)
    queries, keys = _heads_without_choice(counts, problem.kv_heads)
    for gradient, right, on, zero in zip(got, expected, wanted, (queries, keys, keys & False), strict=True):
        assert (gradient is not None) == on
        if gradient is not None:
            _assert_gradients_close(gradient, right, problem, zero)
