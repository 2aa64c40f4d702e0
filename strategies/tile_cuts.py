"""Cutting tiles where a chunk of keys, a block of queries or a CUDA grid ends; the function stays the same."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from autotune.strategies.tiles import Span, Tile

MOST_REPEATS = 65535

CutRepeat = Callable[[Tile, int, int], Iterator[Tile]]


def within_grid(tile: Tile) -> Iterator[Tile]:
    """The tile in parts of as many repeats as a CUDA grid takes in its batch dimension (pytorch#142228)."""
    for first in range(0, tile.query.repeat, MOST_REPEATS):
        yield tile.repeats(first, min(first + MOST_REPEATS, tile.query.repeat))


def visit_in_chunks(tiles: Iterable[Tile], kv_len: int, chunk_size: int) -> Iterator[Tile]:
    """The same function with keys visited chunk by chunk (Ring Attention, arXiv 2310.01889, on one device).

    Every tile is cut at multiples of ``chunk_size``; all pieces of one chunk come before those of the next.
    """
    tiles = list(tiles)
    if len(tiles) > 1:  # an early chunk of one tile may write a row before the tile that had it to itself
        tiles = [replace(tile, fresh=False) for tile in tiles]
    for start in range(0, kv_len, chunk_size):
        for tile in tiles:
            yield from _cut(tile, tile.key, _cut_keys, start, min(start + chunk_size, kv_len))


def within_queries(tiles: Iterable[Tile], start: int, stop: int) -> Iterator[Tile]:
    """What the tiles do for the queries ``start .. stop - 1``, in their order."""
    for tile in tiles:
        yield from _cut(tile, tile.query, _cut_queries, start, stop)


def _cut(tile: Tile, span: Span, cut_repeat: CutRepeat, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile whose ``span``, its keys or its queries, lies in ``start .. stop - 1``."""
    if span.repeat == 1:
        yield from cut_repeat(tile, start, stop)
        return
    last = span.step * (span.length - 1)  # of a repeat, from its first position
    whole_from = max(0, -(-(start - span.start) // span.stride))
    whole_to = min(span.repeat, (stop - 1 - last - span.start) // span.stride + 1)
    if whole_to > whole_from:
        yield tile.repeats(whole_from, whole_to)
    touched_from = max(0, -(-(start - last - span.start) // span.stride))
    touched_to = min(span.repeat, (stop - 1 - span.start) // span.stride + 1)
    for index in range(touched_from, touched_to):
        if not whole_from <= index < whole_to:
            yield from cut_repeat(tile.repeats(index, index + 1), start, stop)


def _inside(span: Span, start: int, stop: int) -> tuple[int, int]:
    """Which positions of a span with a single repeat lie in ``start .. stop - 1``, as a half-open range."""
    return max(0, -(-(start - span.start) // span.step)), min(span.length, (stop - 1 - span.start) // span.step + 1)


def _cut_keys(tile: Tile, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile with a single repeat whose keys lie in ``start .. stop - 1``."""
    first, last = _inside(tile.key, start, stop)
    if tile.causal:
        last = min(last, tile.query.length)  # nobody sees the keys after those
    if first >= last:
        return
    piece = replace(tile, key=tile.key.part(first, last), fresh=tile.fresh and first == 0)
    if not tile.causal:
        yield piece
        return
    yield replace(piece, query=tile.query.part(first, last))  # the triangle on the diagonal
    if last < tile.query.length:  # later queries see the whole piece
        yield replace(piece, query=tile.query.part(last, tile.query.length), causal=False)


def _cut_queries(tile: Tile, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile with a single repeat whose queries lie in ``start .. stop - 1``."""
    first, last = _inside(tile.query, start, stop)
    if first >= last:
        return
    if not tile.causal:
        yield replace(tile, query=tile.query.part(first, last))
        return
    keys = tile.key.length
    if first:  # keys before the first of these queries, which all of them see
        yield replace(tile, query=tile.query.part(first, last), key=tile.key.part(0, min(first, keys)), causal=False)
    rest = replace(tile, fresh=tile.fresh and first == 0)
    if first < keys:  # the triangle on the diagonal
        square = slice(first, min(last, keys))
        yield replace(
            rest, query=tile.query.part(square.start, square.stop), key=tile.key.part(square.start, square.stop)
        )
    if first < keys < last:  # queries past the last key
        yield replace(rest, query=tile.query.part(keys, last), key=tile.key.part(first, keys), causal=False)
