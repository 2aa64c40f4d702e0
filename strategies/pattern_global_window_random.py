"""Global, window and random blocks together: BigBird (arXiv 2007.14062)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autotune.strategies.block_runs import BlockRuns, Numbers, runs_of_intervals
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_blocks import BlockSparse, require_whole
from autotune.strategies.problem import Problem
from autotune.strategies.sparsity import densest, require_sparsity


@dataclass(frozen=True)
class GlobalWindowRandom(BlockSparse):
    """BigBird: the first blocks see and are seen by all, the others see a window and some blocks drawn at random.

    ``global_blocks`` g: query blocks below g see every key block, key blocks below g are seen by every query block.
    ``window_blocks`` w, odd: blocks at most (w - 1) / 2 apart see each other.
    ``random_blocks`` r: key blocks that any other query block i sees besides. Of the m blocks that it would not see
    otherwise, in order, the t-th draw (t < r) takes one of those from t * m // r up to, and without, (t + 1) * m // r:
    never the same twice, one from each part of the sequence, all of them if m <= r. Of the s blocks in its part it
    takes number ``z * s >> 32``, z being the high 32 bits of output i * r + t of SplitMix64 (Steele, Lea and Flood,
    2014) started from ``seed``: the same on every platform.
    """

    global_blocks: int
    window_blocks: int
    random_blocks: int
    seed: int = 0
    block_size: int = 128
    kind: ClassVar[str] = "global_window_random"

    def __post_init__(self) -> None:
        least = {"global_blocks": 0, "window_blocks": 1, "random_blocks": 0, "seed": 0, "block_size": 1}
        for name, limit in least.items():
            require_whole(name, getattr(self, name), limit)
        if self.window_blocks % 2 == 0:
            raise PatternError(f"window_blocks is {self.window_blocks}, but must be odd: as many blocks on either side")
        if self.seed >= 1 << 64:
            raise PatternError(f"seed is {self.seed}, but must be below 2 ** 64")

    @classmethod
    def of_sparsity(
        cls, sparsity: float, seq_len: int, *, seed: int = 0, block_size: int = 128
    ) -> "GlobalWindowRandom":
        """The blocks that a sparsity permits, shared out as by BigBird's base model: 2 global, 3 window, 3 random.

        With a number t: ``t // 3`` global blocks, ``t // 2`` random ones, and as window the largest odd number up to
        ``t // 2``, at least 1, for the diagonal is always there. t is the largest, up to twice the blocks of a side,
        with which at most 1 - sparsity of all pairs are computed, random blocks counted as if none was the short last.

        >>> GlobalWindowRandom.of_sparsity(0.9, 8192)
        GlobalWindowRandom(global_blocks=1, window_blocks=1, random_blocks=2, seed=0, block_size=128)

        Raises:
            PatternError: the sparsity is not from 0 to below 1, or another number is out of range.
        """
        require_sparsity(sparsity)
        most = 2 * cls(0, 1, 0, seed, block_size).blocks(seq_len)
        t = densest(lambda t: _most_pairs(*_shared_out(t), seq_len, block_size), most, sparsity, seq_len)
        return cls(*_shared_out(t), seed, block_size)

    @property
    def label(self) -> str:
        """The three counts, seed and block size."""
        counts = f"global={self.global_blocks} window={self.window_blocks} random={self.random_blocks}"
        return f"global_window_random {counts} seed={self.seed} block={self.block_size}"

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return self.block_size

    def find_runs(self, seq_len: int) -> BlockRuns:
        """Global columns, then random blocks and the window in order; global rows are their first interval."""
        blocks, half = self.blocks(seq_len), self.window_blocks // 2

        def intervals(row: Numbers) -> tuple[Numbers, Numbers]:
            low, high = np.clip(row - half, 0, blocks), np.minimum(row + half + 1, blocks)
            starts, stops = with_window(*self._drawn(row, low, high, blocks), low, high)
            everything = np.where(row < self.global_blocks, blocks, min(self.global_blocks, blocks))
            return np.hstack([0 * row, starts]), np.hstack([everything, stops])

        return runs_of_intervals(blocks, intervals)

    def _drawn(self, row: Numbers, low: Numbers, high: Numbers, blocks: int) -> tuple[Numbers, Numbers]:
        """The random blocks of each row as intervals (rows, r), in order; empty where a part of the row is."""
        known, count = min(self.global_blocks, blocks), self.random_blocks
        after = np.maximum(high, known)
        left = np.maximum(low - known, 0)  # how many are free before the window; after it there are blocks - after
        free, same = np.unique(left + blocks - after, return_inverse=True)
        bounds = (np.arange(count + 1) * free[:, None] // max(count, 1)).astype(np.int32)[same.ravel()]
        first, sizes = bounds[:, :-1], np.diff(bounds)
        word = _splitmix64(self.seed, row.astype(np.uint64) * np.uint64(count) + np.arange(count, dtype=np.uint64))
        word = (word >> np.uint64(32)) * sizes.astype(np.uint64)
        rank = first + (word >> np.uint64(32)).astype(np.int32)
        block = rank + np.where(rank < left, known, after - left).astype(np.int32)
        return block, block + (sizes > 0)

    def reach(self, problem: Problem) -> int | None:
        """Two layers by way of a global block; without any, as the graph has it."""
        blocks = self.blocks(problem.kv_len)
        if self.global_blocks == 0:
            return super().reach(problem)
        layout = self.layout(problem.kv_len)
        complete = len(layout.starts) == blocks and int(layout.stops.min()) == blocks
        return 1 if complete else 2


def _shared_out(t: int) -> tuple[int, int, int]:
    """Global, window and random blocks in the proportion of 2 : 3 : 3, t being 6 for (2, 3, 3).

    >>> [_shared_out(t) for t in (0, 4, 6, 12)]
    [(0, 1, 0), (1, 1, 2), (2, 3, 3), (4, 5, 6)]
    """
    return t // 3, max(1, (t // 2 + 1) // 2 * 2 - 1), t // 2


def _most_pairs(known: int, window: int, drawn: int, seq_len: int, block_size: int) -> int:
    """Token pairs of so many global, window and random blocks, where the short last block is drawn by nobody."""
    row = np.arange(-(-seq_len // block_size), dtype=np.int64)
    low, high = row - window // 2, row + window // 2 + 1
    before = min(known * block_size, seq_len)
    within = np.minimum(high * block_size, seq_len) - np.maximum(low * block_size, before)
    seen = np.where(row < known, seq_len, before + np.maximum(within, 0) + drawn * block_size)
    queries = np.minimum((row + 1) * block_size, seq_len) - row * block_size
    return int((queries * np.minimum(seen, seq_len)).sum())


def with_window(starts: Numbers, stops: Numbers, low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """Intervals (rows, n) by start, and among them, likewise, the one from low to high (rows, 1).

    >>> with_window(np.array([[1, 8]]), np.array([[2, 9]]), np.array([[4]]), np.array([[7]]))
    (array([[1, 4, 8]], dtype=int32), array([[2, 7, 9]], dtype=int32))
    """
    behind = starts >= low
    place = np.arange(len(starts)), starts.shape[1] - behind.sum(axis=1)
    wide = []
    for values, own in ((starts, low), (stops, high)):
        row = np.empty((len(values), values.shape[1] + 1), np.int32)
        row[:, :-1] = values
        np.copyto(row[:, 1:], values, where=behind, casting="same_kind")
        row[place] = own[:, 0]
        wide.append(row)
    return wide[0], wide[1]


def _splitmix64(seed: int, index: Numbers) -> Numbers:
    """Outputs of the SplitMix64 generator by their number, all uint64.

    >>> [hex(int(word)) for word in _splitmix64(0, np.arange(2, dtype=np.uint64))]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    word = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    return word ^ (word >> np.uint64(31))
