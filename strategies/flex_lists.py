"""The key blocks that FlexAttention visits for each block of queries, found in time proportional to their number."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from autotune.strategies.block_runs import Numbers, expand
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_blocks import BlockSparse
from autotune.strategies.problem import Problem

Modifier = Callable[..., torch.Tensor]  # of scores or masks, as FlexAttention calls them

BLOCK = 128
ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class BlockLists:
    """Key blocks, row after row, and how many each row has; ``partial``: those seen in part, ``full``: as a whole."""

    partial_counts: Numbers
    partial: Numbers
    full_counts: Numbers
    full: Numbers


def block_lists(problem: Problem, pattern: Pattern) -> BlockLists:
    """The blocks of a pattern, causal cut included."""
    if isinstance(pattern, BlockSparse):
        return _of_runs(pattern, problem.kv_len, problem.causal)
    rows, (some, whole) = _rows_of_extents(problem, pattern), block_counts(problem, pattern)
    partial = np.concatenate([np.setdiff1d(seen, inside) for seen, inside in rows])
    return BlockLists(some, partial, whole, np.concatenate([np.array(inside, int) for _, inside in rows]))


@lru_cache(maxsize=64)
def block_counts(problem: Problem, pattern: Pattern) -> tuple[Numbers, Numbers]:
    """How many key blocks each block of queries sees in part, and how many as a whole."""
    if isinstance(pattern, BlockSparse):
        lists = block_lists(problem, pattern)
        return lists.partial_counts, lists.full_counts
    rows = _rows_of_extents(problem, pattern)
    return np.array([len(seen) - len(whole) for seen, whole in rows]), np.array([len(whole) for _, whole in rows])


def padded(counts: Numbers, blocks: Numbers, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts (1, 1, Q) and block numbers (1, 1, Q, width), the rest of each row zero.

    >>> padded(np.array([1, 2]), np.array([7, 3, 4]), 3, torch.device("cpu"))[1].tolist()
    [[[[7, 0, 0], [3, 4, 0]]]]
    """
    table = np.zeros((len(counts), width), np.int32)
    table[np.arange(width) < counts[:, None]] = blocks
    parts = (torch.from_numpy(part.astype(np.int32, copy=False)).to(device) for part in (counts, table))
    first, second = parts
    return first[None, None], second[None, None]


def _rows_of_extents(problem: Problem, pattern: Pattern) -> list[tuple[range, range]]:
    """Key blocks that each block of queries sees anything of, and as a whole, by what a pattern knows of them all."""
    rows = []
    for start in range(0, problem.query_len, BLOCK):
        stop = min(start + BLOCK, problem.query_len)
        first, last = pattern.extent(problem, start, stop)
        full_first, full_last = pattern.common(problem, start, stop)
        if problem.causal:
            last, full_last = min(last, stop), min(full_last, start)
        rows.append((range(first // BLOCK, -(-last // BLOCK)), range(-(-full_first // BLOCK), full_last // BLOCK)))
    return rows


@lru_cache(maxsize=4)
def _of_runs(pattern: BlockSparse, seq_len: int, causal: bool) -> BlockLists:
    """The blocks of a mask, some rows at a time."""
    rows = -(-seq_len // BLOCK)
    parts = [
        _rows_of_runs(pattern, seq_len, first, min(first + ROWS_AT_ONCE, rows), causal)
        for first in range(0, rows, ROWS_AT_ONCE)
    ]
    return BlockLists(*(np.concatenate(side) for side in zip(*parts, strict=True)))


def _rows_of_runs(
    pattern: BlockSparse, seq_len: int, first: int, stop: int, causal: bool
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """The lists of the rows ``first .. stop - 1``: full is what all of a row's queries see all of."""
    size = pattern.block_length
    low, high = first * BLOCK, min(stop * BLOCK, seq_len)
    own, start, end = pattern.layout(seq_len).part(low // size, (high - 1) // size + 1)
    top, bottom = np.maximum(own * size, low), np.minimum(own * size + size, high)
    run, row = expand(top // BLOCK, (bottom - 1) // BLOCK + 1)  # a run in each row of FlexAttention that it touches
    heights = _overlap(top[run], bottom[run], row)
    left, right = start[run] * size, np.minimum(end[run] * size, seq_len)
    if causal:
        right = np.minimum(right, (row + 1) * BLOCK)
    cell, block = expand(left // BLOCK, np.maximum((right - 1) // BLOCK + 1, left // BLOCK))
    place = row[cell] << 32 | block
    order = np.argsort(place, kind="stable")
    begins = np.flatnonzero(np.diff(place[order], prepend=-1))
    area = (heights[cell] * _overlap(left[cell], right[cell], block))[order]
    row, block = row[cell][order][begins], block[order][begins].astype(np.int32)
    full = np.add.reduceat(area, begins) == _overlap(0 * row, 0 * row + seq_len, row) * BLOCK
    if causal:
        full &= block < row
    counts = [np.bincount(row[kept] - first, minlength=stop - first) for kept in (~full, full)]
    return counts[0], block[~full], counts[1], block[full]


def _overlap(start: Numbers, stop: Numbers, block: Numbers) -> Numbers:
    """How many of ``start .. stop - 1`` are in a block."""
    tokens: Numbers = np.minimum(stop, (block + 1) * BLOCK) - np.maximum(start, block * BLOCK)
    return tokens
