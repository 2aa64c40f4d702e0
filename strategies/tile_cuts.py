"""Cutting tiles where a chunk of keys, a block of queries or a CUDA grid ends; the function stays the same."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from autotune.strategies.gathers import Gather
from autotune.strategies.tiles import Span, Tile

MOST_REPEATS = 65535

CutRepeat = Callable[[Tile, int, int], Iterator[Tile]]


def within_grid(tile: Tile) -> Iterator[Tile]:
    """The tile in parts of as many repeats as a CUDA grid takes in its batch dimension (pytorch#142228)."""
    for first in range(0, tile.query.repeat, MOST_REPEATS):
        yield tile.repeats(first, min(first + MOST_REPEATS, tile.query.repeat))


def within_copies(tile: Tile, most: int) -> Iterator[Tile]:
    """The tile in parts that copy at most so many positions of keys at once, or one piece if that is more."""
    if isinstance(tile.key, Span):
        yield tile
        return
    pieces = max(1, most // tile.key.piece)
    rows = max(1, most // min(tile.key.length, pieces * tile.key.piece))
    for first in range(0, tile.query.repeat, rows):
        stop = min(first + rows, tile.query.repeat)
        query, key = tile.query.repeats(first, stop), tile.key.repeats(first, stop)
        for piece in range(0, tile.key.starts.shape[1], pieces):
            part = key.pieces(piece, piece + pieces)
            yield replace(tile, query=query, key=part, fresh=tile.fresh and piece == 0)


def visit_in_chunks(tiles: Iterable[Tile], chunk_size: int) -> Iterator[Tile]:
    """The same function with keys visited chunk by chunk (Ring Attention, arXiv 2310.01889, on one device).

    Every tile is cut at multiples of ``chunk_size``; all pieces of one chunk come before those of the next.
    """
    tiles = list(tiles)
    visits = [
        (chunk, index)
        for index, keys in enumerate(tile.key.hull for tile in tiles)
        for chunk in range(keys[0] // chunk_size, keys[-1] // chunk_size + 1)
    ]
    for chunk, index in sorted(visits):
        tile, start = tiles[index], chunk * chunk_size
        yield from _cut(tile, tile.key, _cut_keys, start, start + chunk_size)


def within_queries(tiles: Iterable[Tile], start: int, stop: int) -> Iterator[Tile]:
    """What the tiles do for the queries ``start .. stop - 1``, in their order."""
    for tile in tiles:
        yield from _cut(tile, tile.query, _cut_queries, start, stop)


def _cut(tile: Tile, span: Span | Gather, cut_repeat: CutRepeat, start: int, stop: int) -> Iterator[Tile]:
    """The part of a tile whose ``span``, its keys or its queries, lies in ``start .. stop - 1``."""
    if span.repeat == 1:
        yield from cut_repeat(tile, start, stop)
        return
    whole, touched = span.within(start, stop)
    if whole:
        yield tile.repeats(whole.start, whole.stop)
    for index in touched:
        if index not in whole:
            yield from cut_repeat(tile.repeats(index, index + 1), start, stop)


def _inside(span: Span | Gather, start: int, stop: int) -> tuple[int, int]:
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
