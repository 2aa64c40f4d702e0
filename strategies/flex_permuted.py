"""Dilated attention over a permuted sequence, in which what the branches select lies together.

Where branches nest, a position is of level e if it lies on the grids of the branches 1 .. e, from short to long, and
of no others. Positions are ordered by where the segment of their last branch begins, the highest level first: a grid
of a segment is then no more runs than there are branches, and nearly every block of queries sees a block of keys as a
whole or not at all. A head of another offset takes the same order, turned within every period of the largest rate: its
tokens differ, not their places, and all heads share one block mask.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import flex_attention

from autotune.strategies.block_runs import Numbers, expand
from autotune.strategies.dilated_union import head_offsets, misfit, nested_branches
from autotune.strategies.flex_lists import BLOCK, ROWS_AT_ONCE, BlockLists, Modifier
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem


@dataclass(frozen=True, eq=False)
class Permutation:
    """The order of head 0, and how the others differ.

    The length is rounded up to whole periods; what is beyond the sequence is masked as a key and dropped as a query.
    """

    period: int
    order: torch.Tensor  # the token at each place, int32, shape (rounded length,)
    places: torch.Tensor  # the place of each token, likewise
    offsets: torch.Tensor  # of each head, int32, shape (heads,)

    def tokens(self, head: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Which token of a head is at a place.

        Args:
            head: numbers of query heads, shape (...).
            place: shape (...), which broadcasts with that of the heads.

        Returns:
            int32, the shape that they broadcast to.
        """
        return self._turned(self.order[place], self.offsets[head])

    def places_of(self, head: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Where a token of a head is; shapes and dtype as in `tokens`."""
        return self.places[self._turned(token, -self.offsets[head])]

    def modifier(self, modifier: Modifier) -> Modifier:
        """A score or mask modifier that is given places instead of tokens.

        Args:
            modifier: of (score,) batch, head, query and key, shape () each where FlexAttention calls it.

        Returns:
            The same, with query and key as places.
        """

        def permuted(*scores_and_indices: torch.Tensor) -> torch.Tensor:
            *others, head, query, key = scores_and_indices
            return modifier(*others, head, self.tokens(head, query), self.tokens(head, key))

        return permuted

    def _turned(self, token: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        phase = token % self.period
        return token - phase + (phase + by) % self.period


def permutation_refusal(problem: Problem, pattern: Pattern) -> str | None:
    """Why there is no such order, in one clause; None if there is."""
    if not isinstance(pattern, Dilated):
        return "it is not dilated"
    if max(pattern.dilation_rates) == 1:
        return "no rate is above 1"
    if min(pattern.segment_lengths) >= problem.query_len:
        return "every segment holds the whole sequence"
    return misfit(problem, pattern)


def permuted_problem(problem: Problem, pattern: Dilated) -> Problem:
    """The same with the length in whole periods of the largest rate."""
    period = max(pattern.dilation_rates)
    length = -(-problem.query_len // period) * period
    return replace(problem, query_len=length, kv_len=length)


@lru_cache(maxsize=8)
def permutation(problem: Problem, pattern: Dilated, device: torch.device) -> Permutation:
    """The tables on a device, the same for every layer."""
    period = max(pattern.dilation_rates)
    order = _order(problem, pattern)
    tables = (order, np.argsort(order), np.array(head_offsets(pattern, problem.heads, period)))
    return Permutation(period, *(torch.from_numpy(table.astype(np.int32)).to(device) for table in tables))


def permuted_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, permutation: Permutation, **options: Any
) -> torch.Tensor:
    """FlexAttention over copies in permuted order, those of keys and values for each query head; the output put back.

    Args:
        query: shape (B, Hq, L, D).
        key: shape (B, Hkv, L, D).
        value: shape (B, Hkv, L, D).
        permutation: that of every head.
        options: of ``flex_attention``, in places instead of tokens.

    Returns:
        Shape (B, Hq, L, D).
    """
    heads, length = query.shape[1:3]
    head = torch.arange(heads, device=query.device)[:, None]
    place = torch.arange(len(permutation.order), device=query.device)
    tokens = permutation.tokens(head, place).clamp(max=length - 1)
    kv_head = head // (heads // key.shape[1])
    out = flex_attention(query[:, head, tokens], key[:, kv_head, tokens], value[:, kv_head, tokens], **options)
    assert isinstance(out, torch.Tensor)
    return out[:, head, permutation.places_of(head, place[:length])]


def permuted_bytes(problem: Problem, pattern: Dilated) -> int:
    """Peak of tables, indices, and tensors as large as the output: the copies and theirs, or what training keeps."""
    longer = permuted_problem(problem, pattern)
    # Training: copies, output and its gradient in both orders, gradients of the copies.
    tables, gathers = 2 * 4 * longer.query_len, 2 * 8 * problem.heads * longer.query_len
    return (10 if problem.training else 4) * longer.output_bytes + tables + gathers


@lru_cache(maxsize=4)
def permuted_lists(problem: Problem, pattern: Dilated) -> BlockLists:
    """The blocks that any head sees, causal cut included, in time proportional to their number."""
    cells = _cells(problem, pattern)
    rows = len(cells.earliest)
    parts = [cells.rows(first, min(first + ROWS_AT_ONCE, rows), problem) for first in range(0, rows, ROWS_AT_ONCE)]
    return BlockLists(*(np.concatenate(side) for side in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Cells:
    """The blocks that hold some of a grid: those of a segment of a branch see each other, and are neighbours here."""

    block: Numbers
    whole: Numbers  # whether all of the block is on the grid
    start: Numbers  # the cells of the same grid
    stop: Numbers
    by_block: Numbers  # the cells, block after block
    earliest: Numbers  # period of any token of each block
    latest: Numbers
    periods: int  # those that no head has a token beyond the sequence in

    def rows(self, first: int, stop: int, problem: Problem) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """The lists of the blocks of queries ``first .. stop - 1``."""
        blocks = len(self.earliest)
        chosen = self.by_block[slice(*np.searchsorted(self.block, (first, stop), sorter=self.by_block))]
        cell, other = expand(self.start[chosen], self.stop[chosen])
        row, column = self.block[chosen[cell]], self.block[other]
        full = self.whole[chosen[cell]] & self.whole[other] & (self.latest[column] < self.periods)
        seen = np.ones_like(full)
        if problem.causal:
            seen = self.earliest[column] <= self.latest[row]
            full &= self.latest[column] < self.earliest[row]
        place = row * blocks + column
        inside = np.unique(place[full])
        partial = np.setdiff1d(place[seen], inside)
        some, all_of = (np.bincount(part // blocks - first, minlength=stop - first) for part in (partial, inside))
        return some, (partial % blocks).astype(np.int32), all_of, (inside % blocks).astype(np.int32)


def _cells(problem: Problem, pattern: Dilated) -> Cells:
    order, period = _order(problem, pattern), max(pattern.dilation_rates)
    firsts = np.arange(0, len(order), BLOCK)
    parts, groups = [], 0
    for w, r in nested_branches(pattern, problem.query_len):
        place = np.flatnonzero(order % r == 0)
        code, tokens = np.unique(order[place] // w * len(firsts) + place // BLOCK, return_counts=True)
        group, block = np.divmod(code, len(firsts))
        parts.append((group + groups, block, tokens == BLOCK))
        groups += len(order) // w + 1
    group, block, whole = (np.concatenate(side) for side in zip(*parts, strict=True))
    return Cells(
        block,
        whole,
        np.searchsorted(group, group, "left"),
        np.searchsorted(group, group, "right"),
        np.argsort(block, kind="stable"),
        np.minimum.reduceat(order // period, firsts),
        np.maximum.reduceat(order // period, firsts),
        problem.query_len // period,
    )


@lru_cache(maxsize=4)
def _order(problem: Problem, pattern: Dilated) -> Numbers:
    """The tokens of head 0, place after place."""
    lengths, rates = zip(*nested_branches(pattern, problem.query_len), strict=True)
    token = np.arange(permuted_problem(problem, pattern).query_len)
    level = sum(token % rate == 0 for rate in rates)
    last = np.array(lengths)[level - 1]
    return np.argsort(token // last * last * len(rates) - level, kind="stable")
