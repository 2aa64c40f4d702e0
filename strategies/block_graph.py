"""How many layers until every block can influence every other, without an N x N matrix of tokens."""

import numpy as np

from autotune.strategies.block_runs import BlockRuns

TARGETS_AT_ONCE = 4096  # bits in a row of the sets


def diameter(layout: BlockRuns) -> int | None:
    """Longest shortest path between two blocks, at least 1; None where some block cannot reach another.

    >>> from autotune.strategies.block_runs import runs_of_intervals
    >>> diameter(runs_of_intervals(9, lambda row: (np.maximum(row - 2, 0), np.minimum(row + 3, 9))))
    4
    """
    longest = 1
    for first in range(0, layout.blocks, TARGETS_AT_ONCE):
        distance = _distance(layout, first, min(first + TARGETS_AT_ONCE, layout.blocks))
        if distance is None:
            return None
        longest = max(longest, distance)
    return longest


def _distance(layout: BlockRuns, first: int, stop: int) -> int | None:
    """Layers until every block has seen all of the blocks ``first .. stop - 1``, as sets of bits."""
    own = np.zeros((layout.blocks, stop - first), bool)
    own[np.arange(first, stop), np.arange(stop - first)] = True
    reached = np.packbits(own, axis=1)  # within no layers: themselves
    everything = np.packbits(np.ones(stop - first, bool))
    columns = [layout.columns(block) for block in range(layout.blocks)]
    layers = 0
    while layers == 0 or not (reached == everything).all():
        wider = np.stack([np.bitwise_or.reduce(reached[seen], axis=0) for seen in columns])
        if layers:
            wider |= reached
            if np.array_equal(wider, reached):
                return None
        reached, layers = wider, layers + 1
    return layers
