"""Dense tiles: strided slices of query and key that attend to each other in full or under a causal triangle.

Ring, dilated and block-sparse attention are each a list of such tiles; a strategy describes its tiles and
`tile_attention` runs them. Positions are never gathered: a tile is a strided view.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

MOST_REPEATS = 65535


@dataclass(frozen=True, slots=True)
class Span:
    """Positions ``start + stride * j + step * t`` for ``j < repeat`` and ``t < length``."""

    start: int
    length: int
    step: int = 1
    repeat: int = 1
    stride: int = 0

    @property
    def overlaps(self) -> bool:
        """Whether two repeats share a position."""
        return self.repeat > 1 and self.stride < self.step * (self.length - 1) + 1

    def repeats(self, first: int, stop: int) -> "Span":
        """Only the repeats ``first .. stop - 1``."""
        return replace(self, start=self.start + self.stride * first, repeat=stop - first)

    def part(self, first: int, stop: int) -> "Span":
        """Only the positions ``first .. stop - 1`` of every repeat."""
        return replace(self, start=self.start + self.step * first, length=stop - first)

    def views(self, x: torch.Tensor) -> list[torch.Tensor]:
        """These positions of a tensor, without copying.

        Args:
            x: shape (B, H, L, ...).

        Returns:
            One view of shape (B, H, length, ...) if there is one repeat, else for each batch element one of shape
            (repeat, H, length, ...).
        """
        if self.repeat == 1:
            return [x[:, :, self.start : self.start + self.step * (self.length - 1) + 1 : self.step]]
        head, position, *rest = x.stride()[1:]
        shape = (self.repeat, x.shape[1], self.length, *x.shape[3:])
        stride = (self.stride * position, head, self.step * position, *rest)
        return [element.as_strided(shape, stride, element.storage_offset() + self.start * position) for element in x]

    def disjoint(self) -> Iterator[tuple[slice, "Span"]]:
        """Split into groups of repeats that do not overlap, as (which repeats, their span)."""
        extent = self.step * (self.length - 1) + 1
        hop = max(1, -(-extent // self.stride)) if self.repeat > 1 else 1
        for first in range(min(hop, self.repeat)):
            count = len(range(first, self.repeat, hop))
            start = self.start + self.stride * first
            yield slice(first, None, hop), replace(self, start=start, repeat=count, stride=self.stride * hop)


@dataclass(frozen=True, slots=True)
class Tile:
    """Some heads, and for each repeat a set of queries that attends to a set of keys.

    ``causal``: query t of a repeat sees its keys 0 .. t. ``fresh``: no earlier tile has written these rows.
    """

    heads: slice
    query: Span
    key: Span
    causal: bool = False
    fresh: bool = False

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one head."""
        rows, columns = self.query.length, self.key.length
        if not self.causal:
            return self.query.repeat * rows * columns
        square = min(rows, columns)
        return self.query.repeat * (square * (square + 1) // 2 + (rows - square) * columns)


def dense_tile(query_len: int, kv_len: int, heads: int, *, causal: bool) -> Tile:
    """The one tile of dense attention, without the keys that causal alignment puts out of everybody's sight."""
    keys = min(query_len, kv_len) if causal else kv_len
    return Tile(slice(0, heads), Span(0, query_len), Span(0, keys), causal=causal, fresh=True)


def within_grid(tile: Tile) -> Iterator[Tile]:
    """The tile in parts of as many repeats as a CUDA grid takes in its batch dimension (pytorch#142228)."""
    for first in range(0, tile.query.repeat, MOST_REPEATS):
        yield _only_repeats(tile, first, min(first + MOST_REPEATS, tile.query.repeat))


def visit_in_chunks(tiles: Iterable[Tile], kv_len: int, chunk_size: int) -> Iterator[Tile]:
    """The same function with keys visited chunk by chunk (Ring Attention, arXiv 2310.01889, on one device).

    Every tile is cut at multiples of ``chunk_size``; all pieces of one chunk come before those of the next.
    """
    tiles = list(tiles)
    if len(tiles) > 1:  # an early chunk of one tile may write a row before the tile that had it to itself
        tiles = [replace(tile, fresh=False) for tile in tiles]
    for start in range(0, kv_len, chunk_size):
        for tile in tiles:
            yield from _cut(tile, start, min(start + chunk_size, kv_len))


def _cut(tile: Tile, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile whose keys lie in ``start .. stop - 1``."""
    key = tile.key
    if key.repeat == 1:
        yield from _cut_repeat(tile, start, stop)
        return
    last = key.step * (key.length - 1)  # of a repeat, from its first key
    whole_from = max(0, -(-(start - key.start) // key.stride))
    whole_to = min(key.repeat, (stop - 1 - last - key.start) // key.stride + 1)
    if whole_to > whole_from:
        yield _only_repeats(tile, whole_from, whole_to)
    touched_from = max(0, -(-(start - last - key.start) // key.stride))
    touched_to = min(key.repeat, (stop - 1 - key.start) // key.stride + 1)
    for index in range(touched_from, touched_to):
        if not whole_from <= index < whole_to:
            yield from _cut_repeat(_only_repeats(tile, index, index + 1), start, stop)


def _only_repeats(tile: Tile, first: int, stop: int) -> Tile:
    return replace(tile, query=tile.query.repeats(first, stop), key=tile.key.repeats(first, stop))


def _cut_repeat(tile: Tile, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile with a single repeat whose keys lie in ``start .. stop - 1``."""
    key = tile.key
    first = max(0, -(-(start - key.start) // key.step))
    last = min(key.length, (stop - 1 - key.start) // key.step + 1)
    if first >= last:
        return
    piece = replace(tile, key=key.part(first, last), fresh=tile.fresh and first == 0)
    if not tile.causal:
        yield piece
        return
    rows = tile.query.length
    if first < rows:  # the triangle on the diagonal
        yield replace(piece, query=tile.query.part(first, min(last, rows)))
    if last < rows:  # later queries see the whole piece
        yield replace(piece, query=tile.query.part(last, rows), causal=False)
