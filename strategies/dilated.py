"""LongNet's dilated attention, branch by branch (arXiv 2307.02486)."""

from collections.abc import Iterator
from typing import ClassVar

from autotune.strategies.config import Config
from autotune.strategies.dilated_union import nesting_refusal, union_tiles
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_dilated import Dilated, grid_count
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Span, Tile


class DilatedBranches(TileStrategy):
    """One tile for each branch and head class, all full segments at once; the short last segment is its own.

    ``keys``: ``branches`` computes a key anew in every branch that holds it, ``union`` once, where branches nest.
    """

    name: ClassVar[str] = "dilated"
    tiled_by: ClassVar[tuple[str, ...]] = ("keys",)

    def serves(self, pattern: Pattern) -> bool:
        """Dilated attention."""
        return isinstance(pattern, Dilated)

    def choices(self, problem: Problem, pattern: Pattern) -> tuple[Choice, ...]:
        """Whether to unite the keys of the branches, where that is possible."""
        nests = isinstance(pattern, Dilated) and nesting_refusal(problem, pattern) is None
        return (Choice("keys", ("branches", "union") if nests else ("branches",)), *reads(pattern))

    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterator[Tile]:
        """The branches' segments, or what they hold beside one another."""
        assert isinstance(pattern, Dilated)
        if config.string("keys", "branches") == "branches":
            return dilated_tiles(problem, pattern)
        if (reason := nesting_refusal(problem, pattern)) is not None:
            raise UnsupportedError(f"keys is 'union', but {pattern.label} has none to unite: {reason}")
        return union_tiles(problem, pattern)


def reads(pattern: Pattern) -> tuple[Choice, ...]:
    """Views or copies of the rows of a grid, where there are rates above 1."""
    strided = isinstance(pattern, Dilated) and max(pattern.dilation_rates) > 1
    return (Choice("reads", ("views", "copies")),) if strided else ()


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
