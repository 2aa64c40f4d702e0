"""Dense tiles: strided slices of query and key that attend to each other in full or under a causal triangle.

Ring, dilated and block-sparse attention are each a list of such tiles; a strategy describes its tiles and
`tile_attention` runs them. A tile is a strided view, or a gather where no view has its positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from autotune.strategies.gathers import Gather


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

    @property
    def hull(self) -> range:
        """From the first position to the last."""
        return range(self.start, self.start + self.stride * (self.repeat - 1) + self.step * (self.length - 1) + 1)

    def repeats(self, first: int, stop: int) -> "Span":
        """Only the repeats ``first .. stop - 1``."""
        # Spans are cut by the hundred thousand, and `replace` takes three times as long.
        return Span(self.start + self.stride * first, self.length, self.step, stop - first, self.stride)

    def part(self, first: int, stop: int) -> "Span":
        """Only the positions ``first .. stop - 1`` of every repeat."""
        return Span(self.start + self.step * first, stop - first, self.step, self.repeat, self.stride)

    def shifted(self, by: int) -> "Span":
        """Every position moved."""
        return Span(self.start + by, self.length, self.step, self.repeat, self.stride)

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

    def within(self, start: int, stop: int) -> tuple[range, range]:
        """Repeats that lie in ``start .. stop - 1``: those whole, and those in part too."""
        last = self.step * (self.length - 1)  # of a repeat, from its first position
        whole_from = max(0, -(-(start - self.start) // self.stride))
        whole_to = min(self.repeat, (stop - 1 - last - self.start) // self.stride + 1)
        touched_from = max(0, -(-(start - last - self.start) // self.stride))
        touched_to = min(self.repeat, (stop - 1 - self.start) // self.stride + 1)
        return range(whole_from, whole_to), range(touched_from, touched_to)

    def write_back(self, x: torch.Tensor, index: int, values: torch.Tensor) -> None:
        """Nothing: what was written to a view is in the tensor already."""

    def add(self, x: torch.Tensor, index: int, values: torch.Tensor, heads: torch.Tensor | None = None) -> None:
        """Add values of the shape of view ``index`` to a tensor (B, H, L, ...); ``heads``: which of its H they are."""
        for repeats, span in self.disjoint() if self.overlaps else [(slice(None), self)]:
            view = span.views(x if self.repeat == 1 else x[index : index + 1])[0]
            share = values[repeats] if self.repeat > 1 else values
            if heads is None:
                view.add_(share)
            else:
                view.index_add_(1, heads, share.to(view.dtype))

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
    ``multiplicity``: how often each of its keys counts.
    """

    heads: slice
    query: Span | Gather
    key: Span | Gather
    causal: bool = False
    fresh: bool = False
    multiplicity: int = 1

    def repeats(self, first: int, stop: int) -> "Tile":
        """Only the repeats ``first .. stop - 1``."""
        query, key = self.query.repeats(first, stop), self.key.repeats(first, stop)
        return Tile(self.heads, query, key, self.causal, self.fresh, self.multiplicity)

    @property
    def head_count(self) -> int:
        """How many heads."""
        return len(range(self.heads.stop)[self.heads])

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
