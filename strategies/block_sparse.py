"""Block-sparse attention as dense tiles, whatever the mask."""

from collections.abc import Iterator
from typing import ClassVar

from autotune.strategies.block_tiles import block_tiles
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_blocks import BlockSparse
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Tile

QUERY_TILES = (1024, 0, 256)


class BlockSparseRows(TileStrategy):
    """Runs of key blocks as overlapping views, many query blocks in one call; scattered blocks are gathered."""

    name: ClassVar[str] = "block_sparse"
    tiled_by: ClassVar[tuple[str, ...]] = ("query_tile",)

    def choices(self, problem: Problem, pattern: Pattern) -> tuple[Choice, ...]:
        """How many queries a tile takes at a time where neighbouring windows overlap; 0 for one block's."""
        return (Choice("query_tile", QUERY_TILES),)

    def serves(self, pattern: Pattern) -> bool:
        """Every block-sparse pattern."""
        return isinstance(pattern, BlockSparse)

    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterator[Tile]:
        """Those of the runs."""
        assert isinstance(pattern, BlockSparse)
        return block_tiles(problem, pattern, config.integer("query_tile", QUERY_TILES[0]))
