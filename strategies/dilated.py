"""LongNet's dilated attention, branch by branch (arXiv 2307.02486)."""

from collections.abc import Iterator
from typing import ClassVar

from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_dilated import Dilated, grid_count
from autotune.strategies.problem import Problem
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Span, Tile


class DilatedBranches(TileStrategy):
    """One tile for each branch and head class, all full segments at once; the short last segment is its own."""

    name: ClassVar[str] = "dilated"

    def serves(self, pattern: Pattern) -> bool:
        """Dilated attention."""
        return isinstance(pattern, Dilated)

    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterator[Tile]:
        """The branches' segments."""
        assert isinstance(pattern, Dilated)
        return dilated_tiles(problem, pattern)


def dilated_tiles(problem: Problem, pattern: Dilated) -> Iterator[Tile]:
    """Tiles of every segment of every branch; a branch of rate 1 first, for it writes every row."""
    branches = sorted(pattern.branches, key=lambda branch: branch[1])
    for index, (w, r) in enumerate(branches):
        fresh = index == 0 and r == 1
        segments, tail = divmod(problem.query_len, w)
        for offset, heads in pattern.head_classes(problem.heads, r):
            parts = (
                Span(offset, grid_count(w, offset, r), r, segments, w),
                Span(segments * w + offset, grid_count(tail, offset, r), r),
            )
            for span in parts:
                if span.repeat and span.length:
                    yield Tile(heads, span, span, causal=problem.causal, fresh=fresh)
