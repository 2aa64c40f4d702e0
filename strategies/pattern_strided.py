"""Strided attention: a local window, and every so-many-th block (Sparse Transformer, arXiv 1904.10509)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
import torch

from autotune.strategies.block_runs import BlockRuns, Numbers, runs_of_intervals
from autotune.strategies.pattern_blocks import BlockSparse, require_whole
from autotune.strategies.pattern_global_window_random import with_window
from autotune.strategies.problem import Problem
from autotune.strategies.sparsity import densest, require_sparsity


@dataclass(frozen=True)
class Strided(BlockSparse):
    """Query block i sees key block j if ``|i - j| < local_blocks`` or ``(i - j) mod stride_blocks == 0``.

    The two heads of the paper's strided attention (its section 4.2, merged as one head that attends to both), with
    blocks for positions; the paper has one number for both, and the causal cut.
    """

    local_blocks: int
    stride_blocks: int
    block_size: int = 128
    kind: ClassVar[str] = "strided"

    def __post_init__(self) -> None:
        for name in ("local_blocks", "stride_blocks", "block_size"):
            require_whole(name, getattr(self, name), 1)

    @classmethod
    def of_sparsity(cls, sparsity: float, seq_len: int, *, block_size: int = 128) -> "Strided":
        """Half of the pairs that a sparsity permits for the stride, the rest for the window.

        ``stride_blocks`` is the smallest whose inverse is at most (1 - sparsity) / 2; ``local_blocks`` the largest
        with which at most 1 - sparsity of all pairs are computed, and at least 1, for the diagonal is always there.

        >>> Strided.of_sparsity(0.9, 8192)
        Strided(local_blocks=2, stride_blocks=20, block_size=128)

        Raises:
            PatternError: the sparsity is not from 0 to below 1, or the block size is no whole number.
        """
        require_sparsity(sparsity)
        stride = ceil(2 / (1 - sparsity) * (1 - 1e-12))  # 2 / (1 - 0.9) is a little above 20
        more = cls(1, stride, block_size).blocks(seq_len) - 1
        beyond = densest(lambda n: _pairs(1 + n, stride, seq_len, block_size), more, sparsity, seq_len)
        return cls(1 + beyond, stride, block_size)

    @property
    def label(self) -> str:
        """Window, stride and block size."""
        return f"strided local={self.local_blocks} stride={self.stride_blocks} block={self.block_size}"

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return self.block_size

    def find_runs(self, seq_len: int) -> BlockRuns:
        """The blocks of each row's residue, one by one, and the window among them."""
        blocks = self.blocks(seq_len)

        def intervals(row: Numbers) -> tuple[Numbers, Numbers]:
            regular = row % self.stride_blocks + np.arange(0, blocks, self.stride_blocks, dtype=np.int32)
            low, high = np.maximum(row - self.local_blocks + 1, 0), np.minimum(row + self.local_blocks, blocks)
            return with_window(regular, np.minimum(regular + 1, blocks), low, high)

        return runs_of_intervals(blocks, intervals)

    def counter(self, problem: Problem) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Pattern`."""
        size, local, stride = self.block_size, self.local_blocks, self.stride_blocks

        def count(head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            apart = (query // size - key // size).abs() + head * 0
            return ((apart < local) | (apart % stride == 0)).to(torch.int32)

        return count


def _pairs(local: int, stride: int, seq_len: int, block_size: int) -> int:
    """Token pairs of a window and a stride.

    >>> Strided(2, 3, 4).pairs(Problem.self_attention(26, heads=1)), _pairs(2, 3, 26, 4)
    (404, 404)
    """
    blocks = -(-seq_len // block_size)
    row = np.arange(blocks, dtype=np.int64)
    window = np.minimum((row + local) * block_size, seq_len) - np.maximum(row - local + 1, 0) * block_size
    after = blocks - 1 - row
    near = (local - 1) // stride
    regular = np.maximum(row // stride - near, 0) + np.maximum(after // stride - near, 0)
    missing = np.where((after % stride == 0) & (after >= local), blocks * block_size - seq_len, 0)
    queries = np.minimum((row + 1) * block_size, seq_len) - row * block_size
    return int((queries * (window + regular * block_size - missing)).sum())
