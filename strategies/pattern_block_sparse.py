"""Local windows: blocks near the diagonal."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from autotune.strategies.block_runs import BlockRuns, runs_of_intervals
from autotune.strategies.pattern_blocks import BlockSparse, require_whole
from autotune.strategies.problem import Problem
from autotune.strategies.sparsity import densest, require_sparsity


@dataclass(frozen=True)
class LocalWindow(BlockSparse):
    """Blocks at most k apart, k the largest whose density over the full square stays within 1 - sparsity.

    The diagonal is always there. Density counts tokens, so that a short last block does not blur it.
    """

    sparsity: float
    block_size: int = 128
    kind: ClassVar[str] = "local_window"

    def __post_init__(self) -> None:
        require_sparsity(self.sparsity)
        require_whole("block_size", self.block_size, 1)
        object.__setattr__(self, "sparsity", float(self.sparsity))  # 0 and 0.0 are equal and have one key

    @property
    def label(self) -> str:
        """Sparsity and block size."""
        return f"local_window sparsity={self.sparsity:g} block={self.block_size}"

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return self.block_size

    def find_runs(self, seq_len: int) -> BlockRuns:
        """One run a row, around the diagonal."""
        blocks, k = self.blocks(seq_len), self.half_width(seq_len)
        return runs_of_intervals(blocks, lambda row: (np.maximum(row - k, 0), np.minimum(row + k + 1, blocks)))

    def half_width(self, seq_len: int) -> int:
        """The largest k whose density stays within 1 - sparsity; at least 0.

        >>> LocalWindow(sparsity=0.9).half_width(8192)
        2
        """
        return _half_width(self, seq_len)

    def counter(self, problem: Problem) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Pattern`."""
        size, k = self.block_size, self.half_width(problem.kv_len)

        def count(head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return ((query // size - key // size).abs() + head * 0 <= k).to(torch.int32)

        return count

    def reach(self, problem: Problem) -> int | None:
        """Information moves k blocks a layer."""
        blocks, k = self.blocks(problem.kv_len), self.half_width(problem.kv_len)
        if blocks == 1:
            return 1
        return -(-(blocks - 1) // k) if k else None

    def extent(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """The band around the first and the last block."""
        k, size = self.half_width(problem.kv_len), self.block_size
        return (max(0, start // size - k) * size, min(((stop - 1) // size + k + 1) * size, problem.kv_len))

    def common(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """Where the bands of the first and the last block overlap."""
        k, size = self.half_width(problem.kv_len), self.block_size
        return (max(0, (stop - 1) // size - k) * size, min((start // size + k + 1) * size, problem.kv_len))


def _band_pairs(seq_len: int, block_size: int, k: int) -> int:
    """Token pairs of all blocks with |i - j| <= k.

    >>> _band_pairs(10, 4, 0), _band_pairs(10, 4, 1), _band_pairs(10, 4, 2)
    (36, 84, 100)
    """
    full, tail = divmod(seq_len - 1, block_size)
    tail += 1  # tokens of the last block, after `full` whole ones
    near = min(k, full)
    whole = full * (2 * min(k, full - 1) + 1) - min(k, full - 1) * (min(k, full - 1) + 1) if full else 0
    return whole * block_size**2 + 2 * near * block_size * tail + tail**2


@lru_cache(maxsize=1024)
def _half_width(pattern: LocalWindow, seq_len: int) -> int:
    def pairs(k: int) -> int:
        return _band_pairs(seq_len, pattern.block_size, k)

    return densest(pairs, pattern.blocks(seq_len) - 1, pattern.sparsity, seq_len)
