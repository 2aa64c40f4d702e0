"""Block-sparse attention: a mask over square blocks, and one softmax per query."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Pattern, require_self_attention
from autotune.strategies.problem import Problem

Run = tuple[int, int]


@dataclass(frozen=True)
class BlockSparse(Pattern):
    """Query block i sees whole key blocks; the mask is given as runs of consecutive key blocks."""

    @property
    @abstractmethod
    def block_length(self) -> int:
        """Tokens in a block."""

    @abstractmethod
    def runs(self, seq_len: int, block: int) -> tuple[Run, ...]:
        """Key blocks seen by one query block, as disjoint increasing runs [start, stop), no causal cut."""

    def blocks(self, seq_len: int) -> int:
        """Number of blocks, the last of which may be shorter."""
        return -(-seq_len // self.block_length)

    def validate(self, problem: Problem) -> None:
        """Refuse cross-attention."""
        require_self_attention(self, problem)


@dataclass(frozen=True)
class LocalWindow(BlockSparse):
    """Blocks at most k apart, k the largest whose density over the full square stays within 1 - sparsity.

    The diagonal is always there. Density counts tokens, so that a short last block does not blur it.
    """

    sparsity: float
    block_size: int = 128
    kind: ClassVar[str] = "local_window"

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise PatternError(f"sparsity is {self.sparsity}, but must be at least 0 and below 1")
        if type(self.block_size) is not int or self.block_size < 1:
            raise PatternError(f"block_size is {self.block_size}, but must be a whole number of at least 1")
        object.__setattr__(self, "sparsity", float(self.sparsity))  # 0 and 0.0 are equal and have one key

    @property
    def label(self) -> str:
        """Sparsity and block size."""
        return f"local_window sparsity={self.sparsity:g} block={self.block_size}"

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return self.block_size

    def runs(self, seq_len: int, block: int) -> tuple[Run, ...]:
        """One run, around the diagonal."""
        k = self.half_width(seq_len)
        return ((max(0, block - k), min(self.blocks(seq_len), block + k + 1)),)

    def half_width(self, seq_len: int) -> int:
        """The largest k whose density stays within 1 - sparsity; at least 0.

        >>> LocalWindow(sparsity=0.9).half_width(8192)
        2
        """
        return _half_width(self, seq_len)

    def multiplicity(
        self, problem: Problem, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """Once, where the blocks are at most k apart."""
        return self.counter(problem)(head, query, key)

    def counter(self, problem: Problem) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Pattern`."""
        size, k = self.block_size, self.half_width(problem.kv_len)

        def count(head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return ((query // size - key // size).abs() + head * 0 <= k).to(torch.int32)

        return count

    def pairs(self, problem: Problem) -> int:
        """Tokens of the band of blocks."""
        k = self.half_width(problem.kv_len)
        square = _band_pairs(problem.kv_len, self.block_size, k)
        # The band is symmetric: the causal cut keeps half of it and the diagonal.
        return problem.heads * ((square + problem.kv_len) // 2 if problem.causal else square)

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
    total = 0
    for start in range(0, seq_len, block_size):
        stop = min(start + block_size, seq_len)
        first, last = max(0, start - k * block_size), min(seq_len, start + (k + 1) * block_size)
        total += (stop - start) * (last - first)
    return total


@lru_cache(maxsize=1024)
def _half_width(pattern: LocalWindow, seq_len: int) -> int:
    budget = (1.0 - pattern.sparsity) * seq_len * seq_len
    low, high = 0, pattern.blocks(seq_len) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _band_pairs(seq_len, pattern.block_size, middle) <= budget * (1 + 1e-12):
            low = middle
        else:
            high = middle - 1
    return low
