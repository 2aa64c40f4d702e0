"""Strided attention: a local window, and every so-many-th block (Sparse Transformer, arXiv 1904.10509)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from autotune.strategies.block_runs import BlockRuns, Numbers, runs_of_intervals
from autotune.strategies.pattern_blocks import BlockSparse, require_whole
from autotune.strategies.pattern_global_window_random import with_window
from autotune.strategies.problem import Problem


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
