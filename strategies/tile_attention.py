"""Run dense tiles and merge them into one softmax; exact gradients at linear memory.

Each tile gives a partial output and its log-sum-exp; partial softmaxes merge with weights exp(lse - total lse)
(FlashAttention, arXiv 2205.14135; Ring Attention, arXiv 2310.01889). Sums are kept in float32, those of float64 in it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from autotune.strategies.gathers import Gather
from autotune.strategies.kernels import Kernel
from autotune.strategies.one_device import require_one_device
from autotune.strategies.tile_schedule import QueryBlock, TileSchedule
from autotune.strategies.tiles import Span, Tile

Merge = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
Fold = Callable[[Tile, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], None]
Backward = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # see `Kernel.backward`
Unfold = Callable[..., None]  # see `CpuLanes.unfold`
Part = tuple[QueryBlock, torch.Tensor, torch.Tensor]  # some tiles of a block, and the key and value they are views of


def merge_rows(total: torch.Tensor, total_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    """Fold a partial softmax into a running one, in place.

    Args:
        total: running output, float32, shape (..., L, D).
        total_lse: its log-sum-exp, float32, shape (..., L); -inf for rows without keys yet.
        out: the partial softmax over further keys, shape (..., L, D).
        lse: its log-sum-exp, float32, shape (..., L).
    """
    # The weights exp(lse - merged) and exp(total_lse - merged) add up to one: a single pass over the rows mixes them.
    total.lerp_(out.to(total.dtype), torch.sigmoid(lse - total_lse).unsqueeze(-1))
    total_lse.copy_(torch.logaddexp(total_lse, lse))


def merging(kernel: Kernel, merge: Merge = merge_rows) -> Fold:
    """How a kernel that returns partial results folds those of a tile into its rows: see `CpuLanes.fold`."""

    def fold(
        tile: Tile,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        total: torch.Tensor,
        total_lse: torch.Tensor,
        scale: float,
    ) -> None:
        out, lse = kernel.forward(query, key, value, tile.causal, scale)
        if tile.multiplicity > 1:
            lse = lse + math.log(tile.multiplicity)
        if tile.fresh:
            total.copy_(out)
            total_lse.copy_(lse)
        else:
            merge(total, total_lse, out, lse)

    return fold


@dataclass(frozen=True)
class TilePlan:
    """What to run: the tiles, what folds each into the result, and what gives its share of the gradients."""

    blocks: TileSchedule
    fold: Fold
    backward: Backward
    unfold: Unfold | None = None  # what adds that share to them in place, if the kernel can
    narrows: bool = False  # whether results are rounded as they are folded, where no tile of a block merges
    copies: bool = False  # whether rows that lie apart are brought together before a kernel reads them

    def reads(self, span: Span | Gather, views: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
        """What a kernel is given of views of these positions."""
        return map(torch.Tensor.contiguous, views) if self.copies and span.step > 1 else views


def attend(
    plan: TilePlan, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
) -> torch.Tensor:
    """Attention over the union of the plan's tiles.

    Args:
        plan: the tiles; together they must give every query a key.
        query: shape (B, Hq, Lq, D).
        key: shape (B, Hkv, Lk, D).
        value: shape (B, Hkv, Lk, D).
        scale: factor on the scores; 1 / sqrt(D) if None.

    Returns:
        Shape (B, Hq, Lq, D), the dtype of query.

    Raises:
        ProblemError: they are not on one device.
    """
    require_one_device(query, key, value)
    query, scale = scaled(query, scale)
    key, value = dense_rows(key), dense_rows(value)
    result: torch.Tensor = _TileAttention.apply(query, key, value, plan, scale)  # type: ignore[no-untyped-call]
    return result


def scaled(query: torch.Tensor, scale: float | None) -> tuple[torch.Tensor, float]:
    """The query and the scale as kernels take them.

    Args:
        query: shape (B, Hq, Lq, D).
        scale: factor on the scores; 1 / sqrt(D) if None.

    Returns:
        The query, shape (B, Hq, Lq, D), times the scale where that is 0 or less, and a scale above 0.
    """
    if scale is None:
        scale = query.shape[-1] ** -0.5
    elif scale <= 0:  # kernels multiply masked scores, -inf, by the scale
        query, scale = query * scale, 1.0
    return dense_rows(query), scale


def dense_rows(x: torch.Tensor) -> torch.Tensor:
    """The tensor, shape (..., D), with its last dimension dense, which kernels take for granted."""
    return x if x.stride(-1) == 1 else x.contiguous()


def bind(plan: TilePlan) -> Callable[..., torch.Tensor]:
    """`attend` with the plan filled in."""
    return partial(attend, plan)


class _TileAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: TilePlan, scale: float
    ) -> torch.Tensor:
        out, lse = run_blocks(plan, query, ((block, [(block, key, value)]) for block in plan.blocks), scale)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.plan, ctx.scale = plan, scale  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = _backward(ctx.plan, ctx.scale, grad, *ctx.saved_tensors)  # type: ignore[attr-defined]
        return (*gradients, None, None)


def run_blocks(
    plan: TilePlan, query: torch.Tensor, blocks: Iterable[tuple[QueryBlock, Iterable[Part]]], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention forward, block after block, each over the keys that it visits.

    Args:
        plan: what folds a tile; its blocks are not looked at.
        query: shape (B, Hq, Lq, D), as `scaled` gives it.
        blocks: every block of queries with what it does, one part after the other.
        scale: factor on the scores, above 0.

    Returns:
        The output, shape (B, Hq, Lq, D), the dtype of query, and its log-sum-exp, shape (B, Hq, Lq), float32 or wider.
    """
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.full(query.shape[:3], -torch.inf, dtype=_sums(out.dtype), device=query.device)
    for block, parts in blocks:
        rows = slice(block.start, block.stop)
        target = out[:, :, rows]
        alone = plan.narrows and all(tile.fresh for tile in block.tiles)
        total = target if alone or out.dtype == lse.dtype else torch.empty_like(target, dtype=lse.dtype)
        if block.fresh_rows < total[0, ..., 0].numel():
            total.zero_()  # rows that no fresh tile writes first start as a softmax over no keys
        for part, key, value in parts:
            _run(plan, part, (query, key, value), total, lse[:, :, rows], scale)
        if total is not target:
            target.copy_(total)
        del total  # not beside that of the next block
    return out, lse


def _sums(dtype: torch.dtype) -> torch.dtype:
    """In which partial results are summed up."""
    return torch.promote_types(dtype, torch.float32)


def _run(
    plan: TilePlan,
    block: QueryBlock,
    operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    total: torch.Tensor,
    total_lse: torch.Tensor,
    scale: float,
) -> None:
    """Fold a block's tiles into its rows, total (B, Hq, stop - start, D) and total_lse (B, Hq, stop - start)."""
    query, key, value = operands
    for tile in block.tiles:
        where = tile.query.shifted(-block.start)
        views = zip(
            plan.reads(tile.query, _query_views(tile, query)),
            *(plan.reads(tile.key, _key_views(tile, x, query.shape[1])) for x in (key, value)),
            where.views(total[:, tile.heads]),
            where.views(total_lse[:, tile.heads]),
            strict=True,
        )
        for index, (q, k, v, rows, rows_lse) in enumerate(views):
            plan.fold(tile, q, k, v, rows, rows_lse, scale)
            where.write_back(total[:, tile.heads], index, rows)
            where.write_back(total_lse[:, tile.heads], index, rows_lse)
            del q, k, v, rows, rows_lse  # not beside those of the next tile


def _backward(
    plan: TilePlan,
    scale: float,
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heads = query.shape[1]
    d_query, d_key, d_value = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (query, key, value))
    for tile in (tile for block in plan.blocks for tile in block.tiles):
        operands = zip(
            *(plan.reads(tile.query, _query_views(tile, x)) for x in (grad, query)),
            *(plan.reads(tile.key, _key_views(tile, x, heads)) for x in (key, value)),
            *(plan.reads(tile.query, _query_views(tile, x)) for x in (out, lse)),
            strict=True,
        )
        places = _places(tile, d_query, d_key, d_value) if plan.unfold else None
        for index, (g, q, k, v, o, total_lse) in enumerate(operands):
            if tile.multiplicity > 1:  # each probability is that of one of so many equal keys
                total_lse = total_lse - math.log(tile.multiplicity)
            if plan.unfold and places:
                plan.unfold(g, q, k, v, o, total_lse, tile.causal, scale, *places[index])
                continue
            d_q, d_k, d_v = plan.backward(g, q, k, v, o, total_lse, tile.causal, scale)
            tile.query.add(d_query[:, tile.heads], index, d_q)
            _add_to_keys(tile, d_key, d_k, heads, index)
            _add_to_keys(tile, d_value, d_v, heads, index)
            del g, q, k, v, o, total_lse, d_q, d_k, d_v  # not beside those of the next tile
    return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype)


def _places(
    tile: Tile, d_query: torch.Tensor, d_key: torch.Tensor, d_value: torch.Tensor
) -> list[tuple[torch.Tensor, ...]] | None:
    """The gradients of a tile's rows, view by view; None where no views have them, each query's apart."""
    grouped = d_key.shape[1] != d_query.shape[1]
    if grouped or isinstance(tile.key, Gather) or isinstance(tile.query, Gather) or tile.query.overlaps:
        return None
    where = (tile.query, d_query), (tile.key, d_key), (tile.key, d_value)
    return list(zip(*(span.views(x[:, tile.heads]) for span, x in where), strict=True))


def _query_views(tile: Tile, x: torch.Tensor) -> Iterable[torch.Tensor]:
    """The tile's rows of a tensor (B, Hq, Lq, ...)."""
    return tile.query.views(x[:, tile.heads])


def _key_views(tile: Tile, x: torch.Tensor, heads: int) -> Iterable[torch.Tensor]:
    """The tile's keys of a tensor (B, Hkv, Lk, D), one head for each query head of the tile.

    With grouped heads the keys of the tile (never of the whole sequence at once) are copied.
    """
    if x.shape[1] == heads:
        return tile.key.views(x[:, tile.heads])
    index = _kv_heads(tile, x.shape[1], heads, x.device)
    return (view.index_select(1, index) for view in tile.key.views(x))


def _kv_heads(tile: Tile, kv_heads: int, heads: int, device: torch.device) -> torch.Tensor:
    """The key head that each query head of the tile reads."""
    return torch.arange(heads, device=device)[tile.heads] // (heads // kv_heads)


def _add_to_keys(tile: Tile, total: torch.Tensor, gradient: torch.Tensor, heads: int, element: int) -> None:
    """Add a tile's key gradient (repeat or B, heads of the tile, length, D) into the whole (B, Hkv, Lk, D)."""
    if total.shape[1] == heads:
        tile.key.add(total[:, tile.heads], element, gradient)
    else:
        tile.key.add(total, element, gradient, _kv_heads(tile, total.shape[1], heads, total.device))
