"""Tiles of a block mask: runs that neighbouring rows share or that move in step with them; the rest is gathered."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from autotune.strategies.block_runs import Numbers, expand
from autotune.strategies.gathers import Gather
from autotune.strategies.pattern_blocks import BlockSparse
from autotune.strategies.problem import Problem
from autotune.strategies.tiles import Span, Tile

# Fewer blocks than this are not worth a kernel call of their own: they are gathered with others.
BLOCKS_WORTH_A_CALL = 4


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of key blocks ``[start, stop)``, row by row; ``alone``: those that are all their row has."""

    row: Numbers
    start: Numbers
    stop: Numbers
    alone: npt.NDArray[np.bool_]

    def where(self, kept: npt.NDArray[np.bool_]) -> "Runs":
        """Some of them."""
        return Runs(self.row[kept], self.start[kept], self.stop[kept], self.alone[kept])


@dataclass(eq=False)
class BlockTiler:
    """Turns runs into tiles; ``written``: the query blocks that some tile has written."""

    problem: Problem
    size: int
    blocks: int
    written: npt.NDArray[np.bool_]

    def tiles(self, pattern: BlockSparse) -> Iterator[Tile]:
        """All tiles of a pattern: if causal, triangles on the diagonal and what lies before it."""
        row, start, stop = pattern.layout(self.problem.kv_len).part(0, self.blocks)
        if self.problem.causal:
            own = row[(start <= row) & (row < stop)]
            for tile in self._in_step(Runs(own, own, own + 1, own >= 0), least=1)[0]:
                yield replace(tile, causal=True)
            row, start, stop = (part[start < np.minimum(stop, row)] for part in (row, start, np.minimum(stop, row)))
        runs = Runs(row, start, stop, np.bincount(row, minlength=self.blocks)[row] == 1)
        for step in (self._standing, self._in_step):
            tiles, runs = step(runs)
            yield from tiles
        yield from self._gathered(runs)

    def _standing(self, runs: Runs) -> tuple[list[Tile], Runs]:
        """Runs that neighbouring rows have in common, as one tall tile each; and the runs that are left."""
        order, first, rows = self._groups(runs, 0 * runs.row, apart=runs.row < 0)
        taken = (rows > 1) & (rows * (runs.stop - runs.start)[first] >= BLOCKS_WORTH_A_CALL)
        tiles = []
        for begin, count in _longest_first(first[taken], rows[taken]):
            row, start, stop = (int(part[begin]) for part in (runs.row, runs.start, runs.stop))
            query = Span(row * self.size, self._tokens(row, row + count))
            tiles.append(self._tile(query, Span(start * self.size, self._tokens(start, stop)), row, row + count))
        return tiles, runs.where(~_members(order, rows, taken))

    def _in_step(self, runs: Runs, least: int = BLOCKS_WORTH_A_CALL) -> tuple[list[Tile], Runs]:
        """Runs that move on by a block with every row, as one tile with repeats each; and the runs that are left."""
        apart = self._short(runs.row) | self._short(runs.stop - 1)
        order, first, rows = self._groups(runs, runs.row, apart=apart)
        width = (runs.stop - runs.start)[first]
        alone = np.logical_and.reduceat(runs.alone[order], np.cumsum(rows) - rows) if len(rows) else runs.alone
        taken = (rows * width >= least) & ((width > 1) | alone)
        tiles = []
        for begin, count in _longest_first(first[taken], rows[taken]):
            row, start, stop = (int(part[begin]) for part in (runs.row, runs.start, runs.stop))
            query = Span(row * self.size, self._tokens(row, row + 1), repeat=count, stride=self.size)
            key = Span(start * self.size, self._tokens(start, stop), repeat=count, stride=self.size)
            tiles.append(self._tile(query, key, row, row + count))
        return tiles, runs.where(~_members(order, rows, taken))

    def _groups(self, runs: Runs, offset: Numbers, apart: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers, Numbers]:
        """Runs alike, relative to ``offset``, in consecutive rows: (order, first of each group, how many)."""
        side = 2 * self.blocks + 1
        start, stop = runs.start - offset + self.blocks, runs.stop - offset + self.blocks
        alike = (start * side + stop) * (self.blocks + 1) + runs.row
        order = np.argsort(alike, kind="stable")
        begins = np.flatnonzero((np.diff(alike[order], prepend=-2) != 1) | apart[order])
        return order, order[begins], np.diff(begins, append=len(order))

    def _gathered(self, runs: Runs) -> Iterator[Tile]:
        """Rows that have as many single blocks left, as one tile each; a short last block is a piece of its own."""
        run, column = expand(runs.start, runs.stop)
        row, short = runs.row[run], self._short(column)
        for part in (~short, short):
            yield from self._rows_of_blocks(row[part], column[part])

    def _rows_of_blocks(self, row: Numbers, column: Numbers) -> Iterator[Tile]:
        """Tiles for (row, column) of blocks of one length, row by row."""
        rows, first, counts = np.unique(row, return_index=True, return_counts=True)
        kinds = counts * 4 + self.written[rows] * 2 + self._short(rows)
        for kind in np.unique(kinds):
            some, count = kinds == kind, int(kind) // 4
            columns = column[first[some][:, None] + np.arange(count)]
            query = self._gather(rows[some][:, None])
            yield Tile(self._heads, query, self._gather(columns), fresh=not self.written[rows[some][0]])
        self.written[rows] = True

    def _gather(self, blocks: Numbers) -> Gather:
        """Whole blocks, all of one length."""
        block = int(blocks[0, 0])
        return Gather(torch.from_numpy((blocks * self.size).astype(np.int32)), self._tokens(block, block + 1))

    def _tile(self, query: Span, key: Span, row: int, stop: int) -> Tile:
        """A tile for the query blocks ``row .. stop - 1``, fresh if nothing has been written there."""
        fresh = not self.written[row:stop].any()
        self.written[row:stop] = True
        return Tile(self._heads, query, key, fresh=fresh)

    def _short(self, block: Numbers) -> npt.NDArray[np.bool_]:
        """Whether a block is the last one and shorter than the others."""
        shorter: npt.NDArray[np.bool_] = (block + 1) * self.size > self.problem.kv_len
        return shorter

    def _tokens(self, start: int, stop: int) -> int:
        """Tokens in the blocks ``start .. stop - 1``."""
        return min(stop * self.size, self.problem.kv_len) - start * self.size

    @property
    def _heads(self) -> slice:
        return slice(0, self.problem.heads)


def block_tiles(problem: Problem, pattern: BlockSparse) -> Iterator[Tile]:
    """The tiles of a block-sparse pattern."""
    blocks = pattern.blocks(problem.kv_len)
    return BlockTiler(problem, pattern.block_length, blocks, np.zeros(blocks, bool)).tiles(pattern)


def _longest_first(first: Numbers, rows: Numbers) -> list[tuple[int, int]]:
    """(first run, rows) of each group, those with the most rows at the front: what is fresh needs no merge."""
    order = np.argsort(-rows, kind="stable")
    return list(zip(first[order].tolist(), rows[order].tolist(), strict=True))


def _members(order: Numbers, rows: Numbers, taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which runs are in the groups that are taken."""
    members = np.zeros(len(order), bool)
    members[order] = np.repeat(taken, rows)
    return members
