"""Positions that lie anywhere: what a tile reads by copying, where no strided view has them all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Pieces of ``piece`` positions each: repeat j holds those that begin at ``starts[j]``, one after the other.

    ``starts``: shape (repeat, pieces), on the CPU; the first of each repeat in increasing order. Same interface as
    `Span`, but for views that are copies: what is written to them must be written back.
    """

    starts: torch.Tensor
    piece: int

    @property
    def repeat(self) -> int:
        """How many sets of positions."""
        return self.starts.shape[0]

    @property
    def length(self) -> int:
        """Positions of each repeat."""
        return self.starts.shape[1] * self.piece

    @property
    def start(self) -> int:
        """The first position of the first repeat."""
        return int(self.starts[0, 0])

    @property
    def hull(self) -> range:
        """From the first position to the last."""
        return range(int(self.starts.min()), int(self.starts.max()) + self.piece)

    @property
    def step(self) -> int:
        """Positions of a piece are neighbours."""
        return 1

    def repeats(self, first: int, stop: int) -> "Gather":
        """Only the repeats ``first .. stop - 1``."""
        return replace(self, starts=self.starts[first:stop])

    def pieces(self, first: int, stop: int) -> "Gather":
        """Only the pieces ``first .. stop - 1`` of every repeat."""
        return replace(self, starts=self.starts[:, first:stop])

    def part(self, first: int, stop: int) -> "Gather":
        """Only the positions ``first .. stop - 1`` of every repeat, each of which is a single piece."""
        return Gather(self.starts + first, stop - first)

    def shifted(self, by: int) -> "Gather":
        """Every position moved."""
        return replace(self, starts=self.starts + by)

    def within(self, start: int, stop: int) -> tuple[range, range]:
        """Repeats, each a single piece, that lie in ``start .. stop - 1``: those whole, and those in part too."""
        first, last = self.starts[:, 0], self.starts[:, 0] + self.piece
        whole = range(int((first < start).sum()), int((last <= stop).sum()))
        return whole, range(int((last <= start).sum()), int((first < stop).sum()))

    def views(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """These positions of a tensor (B, H, L, ...), as copies (repeat, H, length, ...), one per batch element."""
        return map(self._copied, x)

    def _copied(self, x: torch.Tensor) -> torch.Tensor:
        """(repeat, H, length, ...) out of (H, L, ...): from all the pieces that overlap each other, those wanted."""
        head, position, *rest = x.stride()
        shape = (x.shape[0], x.shape[1] - self.piece + 1, self.piece, *x.shape[2:])
        pieces = x.as_strided(shape, (head, position, position, *rest), x.storage_offset())
        # Along dimension 1 torch would first copy all of the pieces (2.13, CPU); so there is one more in front.
        taken = pieces.unsqueeze(0).index_select(2, self.starts.flatten().to(x.device))
        return taken.view(x.shape[0], self.repeat, self.length, *x.shape[2:]).transpose(0, 1)

    def write_back(self, x: torch.Tensor, index: int, values: torch.Tensor) -> None:
        """Put view ``index``, shape (repeat, H, length, ...), back into a tensor (B, H, L, ...)."""
        x[index].index_copy_(1, self._positions(x.device), values.transpose(0, 1).flatten(1, 2))

    def add(self, x: torch.Tensor, index: int, values: torch.Tensor, heads: torch.Tensor | None = None) -> None:
        """Add values of the shape of view ``index`` to a tensor (B, H, L, ...); see `Span.add`."""
        values = values.transpose(0, 1).flatten(1, 2).to(x.dtype)
        if heads is not None:
            values = values.new_zeros(x.shape[1], *values.shape[1:]).index_add_(0, heads, values)
        x[index].index_add_(1, self._positions(x.device), values)

    def _positions(self, device: torch.device) -> torch.Tensor:
        """All of them, repeat after repeat."""
        return (self.starts.to(device).long().unsqueeze(-1) + torch.arange(self.piece, device=device)).flatten()
