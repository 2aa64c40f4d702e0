"""Which tiles each block of queries takes, cut to it when a call comes to it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autotune.strategies.block_runs import expand
from autotune.strategies.tile_cuts import visit_in_chunks, within_copies, within_grid, within_queries
from autotune.strategies.tiles import Tile

# So many tiles, 20 MiB of them, are kept for the next call. Where there are more, which takes tiny tiles and hundreds
# of thousands of tokens, the others are cut again: 10 us each, beside a kernel call that takes 100 us or more.
KEPT_TILES = 1 << 16


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """Consecutive queries that are finished before the next ones begin, and the tiles that do it."""

    start: int
    stop: int
    tiles: tuple[Tile, ...]

    @property
    def fresh_rows(self) -> int:
        """How many (head, query) rows are written by fresh tiles, each of which is written once."""
        return sum(tile.head_count * tile.query.repeat * tile.query.length for tile in self.tiles if tile.fresh)


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where tiles are cut.

    Args:
        queries: that are finished before the next begin.
        keys: that all queries of a block visit before the next ones; 0 for all at once.
        copied: key positions that one kernel call may gather.
    """

    queries: int
    keys: int
    copied: int


class TileSchedule:
    """The blocks of queries, one after the other; in time and memory proportional to the tiles they are cut from."""

    def __init__(self, tiles: Iterable[Tile], query_len: int, cuts: Cuts) -> None:
        self._tiles = [part for tile in tiles for part in within_grid(tile)]
        self._starts, self._query_len, self._cuts = range(0, query_len, cuts.queries), query_len, cuts
        hulls = [tile.query.hull for tile in self._tiles]
        first, last = (np.array([hull[end] for hull in hulls], int) // cuts.queries for end in (0, -1))
        tile, block = expand(first, last + 1)
        order = np.argsort(block, kind="stable")
        self._touching = tile[order]  # tiles of the first block in their order, then those of the second
        self._pointer = np.searchsorted(block[order], np.arange(len(self._starts) + 1))
        self._kept: dict[int, QueryBlock] = {}
        self._room = KEPT_TILES

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[QueryBlock]:
        for number in range(len(self)):
            yield self._kept.get(number) or self._cut(number)

    def _cut(self, number: int) -> QueryBlock:
        start = self._starts[number]
        stop = min(start + self._cuts.queries, self._query_len)
        block = QueryBlock(start, stop, tuple(self._pieces(number, start, stop)))
        if len(block.tiles) <= self._room:
            self._kept[number] = block
            self._room -= len(block.tiles)
        return block

    def _pieces(self, number: int, start: int, stop: int) -> Iterator[Tile]:
        touching = self._touching[self._pointer[number] : self._pointer[number + 1]]
        tiles = within_queries((self._tiles[index] for index in touching), start, stop)
        if self._cuts.keys:
            tiles = visit_in_chunks(tiles, self._cuts.keys)
        for tile in tiles:
            yield from within_copies(tile, self._cuts.copied)
