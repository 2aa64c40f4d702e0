"""Block-sparse attention as dense tiles: neighbouring query blocks with the same shape of key run share one tile."""

from collections.abc import Iterator
from itertools import groupby
from typing import ClassVar

from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_blocks import BlockSparse
from autotune.strategies.problem import Problem
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Span, Tile


class BlockSparseRows(TileStrategy):
    """Each run of key blocks of each query block is a dense tile; overlapping views make one call of many."""

    name: ClassVar[str] = "block_sparse"

    def serves(self, pattern: Pattern) -> bool:
        """Every block-sparse pattern."""
        return isinstance(pattern, BlockSparse)

    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterator[Tile]:
        """Runs left of the diagonal as they are, and the diagonal as triangles, if causal; else whole runs."""
        assert isinstance(pattern, BlockSparse)
        if problem.causal:
            yield from _diagonal(problem, pattern)
        rows = _rows(problem, pattern)
        # The n-th runs of neighbouring rows mostly move in step with the rows, so they are looked at together.
        for index in range(max((len(runs) for _, runs in rows), default=0)):
            runs = [(block, runs[index]) for block, runs in rows if len(runs) > index]
            yield from _bands(problem, pattern, runs, fresh=index == 0 and not problem.causal)


Run = tuple[int, int]


def _rows(problem: Problem, pattern: BlockSparse) -> list[tuple[int, list[Run]]]:
    """(query block, token runs of its keys); with causality only what lies before the block."""
    size, length = pattern.block_length, problem.kv_len
    rows = []
    for block in range(pattern.blocks(length)):
        limit = block * size if problem.causal else length
        runs = ((start * size, min(stop * size, limit)) for start, stop in pattern.runs(length, block))
        rows.append((block, [(start, stop) for start, stop in runs if start < stop]))
    return rows


def _bands(problem: Problem, pattern: BlockSparse, runs: list[tuple[int, Run]], *, fresh: bool) -> Iterator[Tile]:
    """Consecutive query blocks of one length whose runs keep their distance, as one tile with repeats."""
    size, heads = pattern.block_length, slice(0, problem.heads)

    def shape(item: tuple[int, tuple[int, Run]]) -> tuple[int, ...]:
        order, (block, (start, stop)) = item
        rows = min(size, problem.query_len - block * size)
        return (block - order, start - block * size, stop - start, rows)

    for (_, _, columns, rows), group in groupby(enumerate(runs), key=shape):
        members = [run for _, run in group]
        block, (start, _) = members[0]
        query = Span(block * size, rows, repeat=len(members), stride=size)
        key = Span(start, columns, repeat=len(members), stride=size)
        yield Tile(heads, query, key, fresh=fresh)


def _diagonal(problem: Problem, pattern: BlockSparse) -> Iterator[Tile]:
    """The triangle of every query block on itself, as far as the pattern has the diagonal."""
    size, length = pattern.block_length, problem.query_len
    blocks = [
        block
        for block in range(pattern.blocks(length))
        if any(start <= block < stop for start, stop in pattern.runs(length, block))
    ]
    diagonal = [(block, (block * size, min((block + 1) * size, length))) for block in blocks]
    for tile in _bands(problem, pattern, diagonal, fresh=True):
        yield Tile(tile.heads, tile.query, tile.key, causal=True, fresh=True)
