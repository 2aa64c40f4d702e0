"""What tiles compute, position by position."""

from collections import Counter
from itertools import product

from autotune.strategies.gathers import Gather

LENGTH = 100  # every position that can be drawn lies below it


def positions(span):
    """Those of each repeat."""
    if isinstance(span, Gather):
        return [[start + t for start in row for t in range(span.piece)] for row in span.starts.tolist()]
    return [[span.start + span.stride * j + span.step * t for t in range(span.length)] for j in range(span.repeat)]


def triples(tiles):
    """Every (head, query, key), as often as it is computed."""
    return Counter(
        (head, row, key)
        for tile in tiles
        for head in range(LENGTH)[tile.heads]
        for rows, keys in zip(positions(tile.query), positions(tile.key), strict=True)
        for (t, row), (u, key) in product(enumerate(rows), enumerate(keys))
        if not tile.causal or u <= t
    )


def written(tile):
    """The (head, row) that a tile writes, as often as it does."""
    rows = [row for repeat in positions(tile.query) for row in repeat]
    return [(head, row) for head in range(LENGTH)[tile.heads] for row in rows]
