"""Dilated attention with each key once: what several branches share is computed once and counts several times.

Where segments and grids nest, a position is of class e if it lies on the grids of the branches 1 .. e and no others;
ring j is what a segment of branch j holds beside the segment of branch j - 1 that a query is in. In its ring j a query
of class c counts a key of class d once for each of the branches j .. e, with e = min(c, d). So there are tiles for
each j and e, of multiplicity e - j + 1: queries of class e and keys of class e or more, and queries of more than e and
keys of e. A class is made of grids of the next rate, as wide as a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from autotune.strategies.pattern_dilated import Dilated, grid_count
from autotune.strategies.problem import Problem
from autotune.strategies.tiles import Span, Tile

MOST_COSETS = 8  # of a rate within the one before; causal tiles grow with the square


@dataclass(frozen=True, slots=True)
class Grid:
    """Positions ``start``, ``start + step``, ... from a multiple of ``step`` on."""

    start: int
    step: int

    def cosets(self, step: int) -> list["Grid"]:
        """The wider grids that make it up."""
        return [Grid(start, step) for start in range(self.start, step, self.step)]

    def __contains__(self, other: "Grid") -> bool:
        return other.step % self.step == 0 and other.start % self.step == self.start


@dataclass(frozen=True, slots=True)
class Part:
    """Queries and keys of a ring, ``stride`` apart in each of ``repeat`` segments; of ring 1 if they are the same."""

    query: range
    key: range
    repeat: int
    stride: int

    def tiles(self, heads: slice, own: Grid, above: Grid | None, multiplicity: int, *, causal: bool) -> Iterator[Tile]:
        """Queries and keys on one's own grid, without those of which both are on the grid above."""
        triangle = causal and self.query == self.key
        for queries, keys in _pairs(own, above, square=triangle):
            query, key = self._span(self.query, queries), self._span(self.key, keys)
            if triangle:  # the first query sees none of these keys if they start later
                late = int(key.start > query.start)
                query, key = query.part(late, query.length), key.part(0, query.length - late)
            if query.length > 0 and key.length > 0:
                fresh = self.query == self.key and queries in keys
                yield Tile(heads, query, key, causal=triangle, fresh=fresh, multiplicity=multiplicity)

    def _span(self, tokens: range, grid: Grid) -> Span:
        length = grid_count(len(tokens), grid.start, grid.step)
        return Span(tokens.start + grid.start, length, grid.step, self.repeat, self.stride)


def nesting_refusal(problem: Problem, pattern: Dilated) -> str | None:
    """Why no key can be computed for several branches at once, in one clause; None if it can."""
    if reason := misfit(problem, pattern):
        return reason
    for (_, r), (_, sparser) in pairwise(nested_branches(pattern, problem.query_len)):
        if sparser > MOST_COSETS * r:
            return f"rate {sparser} is more than {MOST_COSETS} times rate {r}, and would make as many tiles"
    return None


def misfit(problem: Problem, pattern: Dilated) -> str | None:
    """Why segments and grids do not nest, in one clause; None if they do."""
    branches = nested_branches(pattern, problem.query_len)
    if len(branches) < 2:
        return "there is a single branch"
    for (w, r), (wider, sparser) in pairwise(branches):
        if wider % w or sparser % r:
            return f"w={wider} r={sparser} is not in whole steps of w={w} r={r}"
        inner, outer = (head_offsets(pattern, problem.heads, rate) for rate in (r, sparser))
        if inner != [offset % r for offset in outer]:
            return f"the offsets of rate {sparser} are not on the grids of rate {r}"
    (w, _), (_, r) = branches[0], branches[-1]
    return f"rate {r} does not divide the shortest segment, {w}" if w % r else None


def union_tiles(problem: Problem, pattern: Dilated) -> Iterator[Tile]:
    """Tiles that hold each (query, key) of a pattern that nests once."""
    branches = nested_branches(pattern, problem.query_len)
    inner = None
    for ring, (w, _) in enumerate(branches, 1):
        parts = [part for part in _parts(problem, w, inner) if part.key]
        for e, (_, rate) in reversed(list(enumerate(branches[ring - 1 :], ring))):
            wider = branches[e][1] if e < len(branches) else None
            for offset, heads in pattern.head_classes(problem.heads, wider or rate):
                own, above = Grid(offset % rate, rate), Grid(offset, wider) if wider else None
                for part in parts:
                    yield from part.tiles(heads, own, above, e - ring + 1, causal=problem.causal)
        inner = w


def nested_branches(pattern: Dilated, seq_len: int) -> list[tuple[int, int]]:
    """The branches from short to long; segments that hold the whole sequence count as equally long.

    >>> nested_branches(Dilated((30, 4, 9), (4, 1, 2)), 9)
    [(4, 1), (12, 2), (12, 4)]
    """
    unit = max((w for w in pattern.segment_lengths if w < seq_len), default=max(pattern.dilation_rates))
    whole = -(-seq_len // unit) * unit
    return sorted((w if w < seq_len else whole, r) for w, r in pattern.branches)


def head_offsets(pattern: Dilated, heads: int, rate: int) -> list[int]:
    """The offset of each head."""
    classes = pattern.head_classes(heads, rate)
    return [offset for _, offset in sorted((head, offset) for offset, some in classes for head in range(heads)[some])]


def _parts(problem: Problem, w: int, inner: int | None) -> Iterator[Part]:
    """The segments themselves where there is no inner length, else what is before and after their inner segments."""
    segments, tail = divmod(problem.query_len, w)
    for start, stop, repeat in ((0, w, segments), (segments * w, segments * w + tail, 1)):
        for first in range(start, stop, inner or w) if repeat else ():
            own = range(first, min(first + (inner or w), stop))
            if inner is None:
                yield Part(own, own, repeat, w)
                continue
            yield Part(own, range(start, first), repeat, w)
            if not problem.causal:
                yield Part(own, range(own.stop, stop), repeat, w)


def _pairs(own: Grid, above: Grid | None, square: bool) -> Iterator[tuple[Grid, Grid]]:
    """(queries, keys) on one's own grid of which not both are on the one above; a query's own key comes first.

    ``square``: both of one step, so that a triangle is a tile.
    """
    if above is None:
        yield own, own
        return
    grids = own.cosets(above.step)
    alone = [grid for grid in grids if grid != above]
    for queries in alone:
        yield from ((queries, keys) for keys in (sorted(grids, key=queries.__ne__) if square else [own]))
    yield from ((above, keys) for keys in alone)
