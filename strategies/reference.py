"""The float64 oracle: some query rows of a pattern, at full length, without an N x N matrix."""

import torch

from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

SCORES_AT_ONCE = 16_000_000  # 128 MB in float64


def reference_rows(
    problem: Problem,
    pattern: Pattern,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of the query rows ``rows`` by the definition of the pattern, in float64.

    Args:
        problem: the shapes, and whether causal.
        pattern: the function.
        query: shape (B, Hq, Lq, D).
        key: shape (B, Hkv, Lk, D).
        value: shape (B, Hkv, Lk, D).
        rows: query indices, shape (R,).
        scale: factor on the scores; 1 / sqrt(D) if None.

    Returns:
        float64, shape (B, Hq, R, D). Differentiable.
    """
    scale = problem.head_dim**-0.5 if scale is None else scale
    heads = []
    for head in range(problem.heads):
        kv_head = head // problem.group_size
        keys, values = (x[:, kv_head].to(query.device, torch.float64) for x in (key, value))
        operands = query[:, head, rows].double() * scale, keys, values
        heads.append(_rows_of_head(problem, pattern, head, rows, *operands))
    return torch.stack(heads, dim=1)


def _rows_of_head(
    problem: Problem,
    pattern: Pattern,
    head: int,
    rows: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Rows (B, R, D) of scaled queries (B, R, D) over keys and values (B, Lk, D), some rows at a time."""
    at_once = max(1, SCORES_AT_ONCE // problem.kv_len)
    parts = []
    for part, some in zip(torch.split(rows, at_once), torch.split(query, at_once, dim=1), strict=True):
        # A key counted m times adds log m to its score: (R, Lk), -inf where unseen.
        bias = pattern.mask_rows(problem, head, part).double().log()
        parts.append(torch.softmax(some @ key.transpose(-1, -2) + bias, dim=-1) @ value)
    return torch.cat(parts, dim=1)


def sample_rows(query_len: int, count: int, *, seed: int = 0) -> torch.Tensor:
    """Query rows worth checking: the first and last ones, and random ones between; all if there are few.

    >>> sample_rows(5, 8).tolist()
    [0, 1, 2, 3, 4]
    """
    if query_len <= count:
        return torch.arange(query_len)
    edge = count // 4
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randperm(query_len - 2 * edge, generator=generator)[: count - 2 * edge] + edge
    return torch.cat([torch.arange(edge), middle.sort().values, torch.arange(query_len - edge, query_len)])
