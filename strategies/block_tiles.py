"""Tiles of a block mask: runs that neighbouring rows share or that move in step with them; the rest is gathered."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

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

# Rows share a tall tile if at least this much of their windows is common to all; the rest takes calls of its own.
COMMON_SHARE = 0.75


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of key blocks ``[start, stop)``, row by row; ``alone``: those that are all their row has."""

    row: Numbers
    start: Numbers
    stop: Numbers
    alone: npt.NDArray[np.bool_]

    def where(self, kept: npt.NDArray[np.bool_] | Numbers) -> "Runs":
        """Some of them."""
        return Runs(self.row[kept], self.start[kept], self.stop[kept], self.alone[kept])

    @classmethod
    def of(cls, parts: "list[Runs]") -> "Runs":
        """All of several, row by row."""
        row, start, stop, alone = (
            np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)
        )
        place = row.astype(np.int64) << 32 | start  # of runs in order, one part after the other: sorted in no time
        return cls(row, start, stop, alone).where(np.argsort(place, kind="stable"))


@dataclass(eq=False)
class BlockTiler:
    """Turns runs into tiles.

    ``height``: rows that share a tile where their windows allow. ``written``: the query blocks some tile has written.
    """

    problem: Problem
    size: int
    blocks: int
    height: int
    written: npt.NDArray[np.bool_]

    def tiles(self, pattern: BlockSparse) -> Iterator[Tile]:
        """All tiles of a pattern: if causal, triangles on the diagonal and what lies before it."""
        row, start, stop = pattern.layout(self.problem.kv_len).part(0, self.blocks, np.int32)
        if self.problem.causal:
            own = row[(start <= row) & (row < stop)]
            for tile in self._in_step(Runs(own, own, own + 1, own >= 0), least=1)[0]:
                yield replace(tile, causal=True)
            row, start, stop = (part[start < np.minimum(stop, row)] for part in (row, start, np.minimum(stop, row)))
        runs = Runs(row, start, stop, np.bincount(row, minlength=self.blocks)[row] == 1)
        tiles, runs = self._standing(runs)
        yield from tiles
        wide = (runs.stop - runs.start > 1) | runs.alone
        scattered, runs = runs.where(~wide), runs.where(wide)
        height = self.height
        while height > 1:
            tiles, runs = self._tall(runs, height)
            yield from tiles
            height //= 2
        tiles, runs = self._in_step(runs)
        yield from tiles
        yield from self._gathered(Runs.of([runs, scattered]))

    def _standing(self, runs: Runs) -> tuple[list[Tile], Runs]:
        """Runs that neighbouring rows have in common, as one tall tile each; and the runs that are left."""
        order, first, rows = self._groups(runs, 0 * runs.row, apart=runs.row < 0)
        taken = (rows > 1) & (rows * (runs.stop - runs.start)[first] >= BLOCKS_WORTH_A_CALL)
        tiles = []
        for begin, count in _longest_first(first[taken], rows[taken]):
            row, start, stop = (int(part[begin]) for part in (runs.row, runs.start, runs.stop))
            query = Span(row * self.size, self._tokens(row, row + count))
            key = Span(start * self.size, self._tokens(start, stop))
            tiles.append(self._tile(query, key, np.arange(row, row + count)))
        return tiles, runs.where(~_members(order, rows, taken))

    def _tall(self, runs: Runs, height: int) -> tuple[list[Tile], Runs]:
        """What the widest runs of ``height`` rows have in common, as tall tiles, then their edges; and what is left.

        Dense kernels are a quarter faster on a thousand queries than on 128 (2 CPU cores, float32).
        """
        order = np.lexsort((runs.start - runs.stop, runs.row))
        rows, first = np.unique(runs.row[order], return_index=True)
        if not len(rows):
            return [], runs
        widest = runs.where(order[first])
        begins = np.flatnonzero(np.diff(rows // height, prepend=-1))
        counts = np.diff(begins, append=len(rows))
        start, stop = np.maximum.reduceat(widest.start, begins), np.minimum.reduceat(widest.stop, begins)
        area = np.add.reduceat(widest.stop - widest.start, begins)
        taken = (counts == height) & ((stop - start) * counts >= COMMON_SHARE * area)
        tiles, _ = self._in_step(
            Runs(rows[begins], start, stop, taken).where(taken), least=1, pitch=height, height=height
        )
        taken, start, stop = (np.repeat(part, counts) for part in (taken, start, stop))
        left = Runs(rows, widest.start, start, widest.alone).where(taken & (widest.start < start))
        right = Runs(rows, stop, widest.stop, widest.alone).where(taken & (stop < widest.stop))
        rest = [runs.where(np.delete(order, first)), widest.where(~taken)]
        for edge in (left, right):
            some, remaining = self._in_step(edge, pitch=height)
            tiles += some
            rest.append(remaining)
        return tiles, Runs.of(rest)

    def _in_step(
        self, runs: Runs, *, least: int = BLOCKS_WORTH_A_CALL, pitch: int = 1, height: int = 1
    ) -> tuple[list[Tile], Runs]:
        """Runs that move on in step with their rows, as one tile with repeats each; and the runs that are left.

        Args:
            runs: of rows that are ``height`` blocks high.
            least: blocks that a tile must have.
            pitch: from a row to the next one of its tile.
            height: of the rows.
        """
        apart = self._short(runs.row + height - 1) | self._short(runs.stop - 1)
        order, first, rows = self._groups(runs, runs.row, apart=apart, pitch=pitch)
        width = (runs.stop - runs.start)[first]
        alone = np.logical_and.reduceat(runs.alone[order], np.cumsum(rows) - rows) if len(rows) else runs.alone
        taken = (rows * width >= least) & ((width > 1) | alone)
        tiles = []
        stride = pitch * self.size
        for begin, count in _longest_first(first[taken], rows[taken]):
            row, start, stop = (int(part[begin]) for part in (runs.row, runs.start, runs.stop))
            query = Span(row * self.size, self._tokens(row, row + height), repeat=count, stride=stride)
            key = Span(start * self.size, self._tokens(start, stop), repeat=count, stride=stride)
            blocks = (row + pitch * np.arange(count)[:, None] + np.arange(height)).flatten()
            tiles.append(self._tile(query, key, blocks))
        return tiles, runs.where(~_members(order, rows, taken))

    def _groups(
        self, runs: Runs, offset: Numbers, *, apart: npt.NDArray[np.bool_], pitch: int = 1
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Runs alike, relative to ``offset``, in rows ``pitch`` apart: (order, first of each group, how many)."""
        alike = (runs.start - offset + self.blocks).astype(np.int64) * (self.blocks + 1) + (runs.stop - runs.start)
        alike = alike * pitch + runs.row % pitch
        order = np.argsort(alike, kind="stable")  # row after row where they are alike
        alike, row = alike[order], runs.row[order]
        begins = np.ones(len(order), bool)
        begins[1:] = (alike[1:] != alike[:-1]) | (row[1:] - row[:-1] != pitch) | apart[order[1:]]
        first = np.flatnonzero(begins)
        return order, order[first], np.diff(first, append=len(order))

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

    def _tile(self, query: Span, key: Span, blocks: Numbers) -> Tile:
        """A tile for some query blocks, fresh if nothing has been written there."""
        fresh = not self.written[blocks].any()
        self.written[blocks] = True
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


def block_tiles(problem: Problem, pattern: BlockSparse, query_tile: int) -> Iterator[Tile]:
    """The tiles of a block-sparse pattern, at most ``query_tile`` queries high (or one block) where windows move."""
    blocks, size = pattern.blocks(problem.kv_len), pattern.block_length
    return BlockTiler(problem, size, blocks, max(1, query_tile // size), np.zeros(blocks, bool)).tiles(pattern)


def _longest_first(first: Numbers, rows: Numbers) -> list[tuple[int, int]]:
    """(first run, rows) of each group, those with the most rows at the front: what is fresh needs no merge."""
    order = np.argsort(-rows, kind="stable")
    return list(zip(first[order].tolist(), rows[order].tolist(), strict=True))


def _members(order: Numbers, rows: Numbers, taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which runs are in the groups that are taken."""
    members = np.zeros(len(order), bool)
    members[order] = np.repeat(taken, rows)
    return members
