"""Block-sparse attention: a mask over square blocks, and one softmax per query. What all its patterns share."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from autotune.strategies.block_graph import diameter
from autotune.strategies.block_runs import BlockRuns
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
    def find_runs(self, seq_len: int) -> BlockRuns:
        """Key blocks seen by every query block, no causal cut; see `layout`."""

    def layout(self, seq_len: int) -> BlockRuns:
        """`find_runs`, worked out once: in time and memory proportional to the runs, never through an N x N mask."""
        return _layout(self, seq_len)

    def runs(self, seq_len: int, block: int) -> tuple[Run, ...]:
        """Key blocks seen by one query block, as disjoint increasing runs [start, stop), no causal cut."""
        return self.layout(seq_len).row(block)

    def blocks(self, seq_len: int) -> int:
        """Number of blocks, the last of which may be shorter."""
        return -(-seq_len // self.block_length)

    def validate(self, problem: Problem) -> None:
        """Refuse cross-attention."""
        require_self_attention(self, problem)

    def multiplicity(
        self, problem: Problem, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """Once, where the key's block is seen by the query's."""
        with query.device:
            count = self.counter(problem)
        return count(head, query, key)

    def counter(self, problem: Problem) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Pattern`: a bisection of the row's runs, in tables of all runs on the default device."""
        size, layout = self.block_length, self.layout(problem.kv_len)
        tables = (layout.pointer, layout.starts, layout.stops)
        pointer, starts, stops = (torch.as_tensor(part.astype(np.int32)) for part in tables)
        steps = [1 << bit for bit in reversed(range(int(np.diff(layout.pointer).max() - 1).bit_length()))]

        def count(head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            row, block = query // size, key // size + head * 0
            run, last = pointer[row], pointer[row + 1] - 1
            for step in steps:  # to the last run that does not start after the block
                further = torch.minimum(run + step, last)
                run = torch.where(starts[further] <= block, further, run)
            return ((starts[run] <= block) & (block < stops[run])).to(torch.int32)

        return count

    def mask_rows(self, problem: Problem, head: int, queries: torch.Tensor) -> torch.Tensor:
        """See `Pattern`: from the runs of just these rows."""
        blocks = (queries // self.block_length).cpu().numpy()
        seen = torch.from_numpy(self.layout(problem.kv_len).seen(blocks)).to(queries.device, torch.int32)
        count = seen.repeat_interleave(self.block_length, dim=1)[:, : problem.kv_len]
        keys = torch.arange(problem.kv_len, device=queries.device)
        return count * (keys <= queries[:, None]) if problem.causal else count

    def pairs(self, problem: Problem) -> int:
        """Tokens of all runs."""
        return problem.heads * _pairs(self, problem.kv_len, problem.causal)

    def reach(self, problem: Problem) -> int | None:
        """The diameter of the graph of blocks."""
        return diameter(self.layout(problem.kv_len))

    def extent(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """From the first block of any of these queries to the last."""
        size = self.block_length
        _, starts, stops = self.layout(problem.kv_len).part(start // size, (stop - 1) // size + 1)
        return int(starts.min()) * size, min(int(stops.max()) * size, problem.kv_len)


def require_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        PatternError: it is not.
    """
    if type(value) is not int or value < least:
        raise PatternError(f"{name} is {value}, but must be a whole number of at least {least}")


@lru_cache(maxsize=8)
def _layout(pattern: BlockSparse, seq_len: int) -> BlockRuns:
    return pattern.find_runs(seq_len)


@lru_cache(maxsize=1024)
def _pairs(pattern: BlockSparse, seq_len: int, causal: bool) -> int:
    """Token pairs of all runs, after the causal cut."""
    size, layout = pattern.block_length, pattern.layout(seq_len)
    row, start, stop = layout.part(0, layout.blocks)
    queries = np.minimum((row + 1) * size, seq_len) - row * size
    last = np.minimum(stop * size, seq_len)
    if not causal:
        return int((queries * (last - start * size)).sum())
    before = np.maximum(np.minimum(last, row * size) - start * size, 0)
    triangle = queries * (queries + 1) // 2 * ((start <= row) & (row < stop))
    return int((queries * before + triangle).sum())
