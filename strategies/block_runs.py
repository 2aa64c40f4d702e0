"""Which key blocks each query block sees, as runs of consecutive blocks in CSR form: nothing grows with N x N."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]  # whole numbers
# First and last (exclusive) key blocks of intervals, for a column of query blocks: two arrays (rows, intervals).
Intervals = Callable[[Numbers], tuple[Numbers, Numbers]]

ELEMENTS_AT_ONCE = 1 << 15  # keeps what a pass works on in the cache


@dataclass(frozen=True, eq=False)
class BlockRuns:
    """Disjoint increasing runs ``[start, stop)`` that touch nowhere; row i has those from pointer[i] to pointer[i + 1].

    A window is one run a row, however wide. Block numbers take two bytes where they fit, so that at most 4 bytes go
    with a run: 12.8 MiB for the 3.4 million blocks of 1,048,576 tokens at 95 % sparsity, if no two are neighbours.
    """

    pointer: npt.NDArray[np.int32]  # shape (blocks + 1,)
    starts: Numbers  # shape (runs,)
    stops: Numbers  # shape (runs,)

    @property
    def blocks(self) -> int:
        """Number of query blocks, and of key blocks."""
        return len(self.pointer) - 1

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.pointer.nbytes + self.starts.nbytes + self.stops.nbytes

    def row(self, block: int) -> tuple[tuple[int, int], ...]:
        """The runs of one query block.

        >>> runs_of_intervals(4, lambda row: (row - row % 2, row + 1)).row(3)
        ((2, 4),)
        """
        part = slice(self.pointer[block], self.pointer[block + 1])
        return tuple(zip(self.starts[part].tolist(), self.stops[part].tolist(), strict=True))

    def part(
        self, first: int, stop: int, kind: type[np.int32] | type[np.int64] = np.int64
    ) -> tuple[Numbers, Numbers, Numbers]:
        """(row, start, stop) of every run of the rows ``first .. stop - 1``."""
        where = slice(self.pointer[first], self.pointer[stop])
        rows = np.repeat(np.arange(first, stop, dtype=kind), np.diff(self.pointer[first : stop + 1]))
        return rows, self.starts[where].astype(kind), self.stops[where].astype(kind)

    def seen(self, rows: Numbers) -> npt.NDArray[np.bool_]:
        """Which key blocks some query blocks see, shape (rows, blocks)."""
        edges = np.zeros((len(rows), self.blocks + 1), np.int8)
        for edge, row in zip(edges, rows, strict=True):
            part = slice(self.pointer[row], self.pointer[row + 1])
            edge[self.starts[part]] = 1
            edge[self.stops[part]] = -1
        return np.cumsum(edges, axis=1, dtype=np.int8)[:, :-1].view(np.bool_)

    def columns(self, block: int) -> Numbers:
        """Every key block of one query block, in order."""
        return expand(*self.part(block, block + 1)[1:])[1]


def block_numbers(blocks: int) -> type[np.uint16] | type[np.int32]:
    """The smallest type that holds 0 to ``blocks``."""
    return np.uint16 if blocks < 1 << 16 else np.int32


def runs_of_intervals(blocks: int, intervals: Intervals) -> BlockRuns:
    """The union of some intervals in each row: by start, the same number in every row, empty ones and overlaps allowed.

    >>> runs = runs_of_intervals(3, lambda row: (np.hstack([0 * row, row]), np.hstack([0 * row + 1, row + 1])))
    >>> [runs.row(block) for block in range(3)]
    [((0, 1),), ((0, 2),), ((0, 1), (2, 3))]
    """
    width = intervals(np.arange(1)[:, None])[0].shape[1]
    starts, stops = (np.empty(blocks * width, block_numbers(blocks)) for _ in range(2))
    pointer = np.zeros(blocks + 1, np.int32)
    at_once, found = max(1, ELEMENTS_AT_ONCE // width), 0
    for first in range(0, blocks, at_once):
        rows = np.arange(first, min(first + at_once, blocks), dtype=np.int32)
        counts, start, stop = _united(*intervals(rows[:, None]))
        starts[found : found + len(start)] = start
        stops[found : found + len(start)] = stop
        pointer[first + 1 : first + 1 + len(rows)] = found + np.cumsum(counts)
        found += len(start)
    for array in (starts, stops):
        array.resize(found, refcheck=False)
    return BlockRuns(pointer, starts, stops)


def _united(starts: Numbers, stops: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """The union's runs, row after row: (runs in each row, start, stop)."""
    begins = starts < stops
    furthest = np.maximum.accumulate(np.where(begins, stops, -1), axis=1)
    begins[:, 1:] &= starts[:, 1:] > furthest[:, :-1]
    counts = begins.sum(axis=1)
    places = np.flatnonzero(begins)
    row_ends = np.repeat(np.arange(1, len(starts) + 1) * starts.shape[1], counts)
    ends = np.minimum(np.append(places[1:], starts.size), row_ends) - 1
    return counts, starts.ravel()[places], furthest.ravel()[ends]


def runs_of_pairs(blocks: int, rows: Numbers, columns: Numbers) -> BlockRuns:
    """Runs of single blocks, given as (row, column) in any order and as often as one likes.

    >>> runs_of_pairs(3, np.array([2, 0, 1, 1]), np.array([0, 0, 2, 1])).row(1)
    ((1, 3),)
    """
    flat = np.unique(rows.astype(np.int64) * (blocks + 1) + columns)  # a gap between rows keeps their runs apart
    begins = np.flatnonzero(np.diff(flat, prepend=-2) > 1)
    ends = np.flatnonzero(np.diff(flat, append=(blocks + 1) ** 2) > 1)
    row = flat[begins] // (blocks + 1)
    kind = block_numbers(blocks)
    pointer = np.searchsorted(row, np.arange(blocks + 1)).astype(np.int32)
    base = row * (blocks + 1)
    return BlockRuns(pointer, (flat[begins] - base).astype(kind), (flat[ends] + 1 - base).astype(kind))


def expand(starts: Numbers, stops: Numbers) -> tuple[Numbers, Numbers]:
    """Every number of every run ``[start, stop)``, and which run it is of: (run, number).

    >>> [numbers.tolist() for numbers in expand(np.array([5, 0]), np.array([7, 3]))]
    [[0, 0, 1, 1, 1], [5, 6, 0, 1, 2]]
    """
    lengths = stops - starts
    run = np.repeat(np.arange(len(starts)), lengths)
    first = np.cumsum(lengths) - lengths
    return run, np.arange(len(run)) - (first - starts)[run]
