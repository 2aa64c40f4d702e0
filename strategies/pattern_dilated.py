"""Dilated attention of LongNet (arXiv 2307.02486): segments, dilation, and one softmax over all branches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch

from autotune.strategies.clique_graph import diameter
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Pattern, require_self_attention
from autotune.strategies.problem import Problem

Offsets = Literal["modulo", "blocked"]


@dataclass(frozen=True)
class Dilated(Pattern):
    """Branches of (segment length w, dilation rate r), mixed by their softmax denominators (LongNet, eq. 9 to 11).

    Head h has offset s = h mod r (``"modulo"``, the paper) or h // ceil(H / r) (``"blocked"``, torchscale). Position
    i is on the grid of a branch when (i mod w) mod r == s; a query on the grid sees the grid keys of its own segment
    i // w. A key seen in m branches counts m times. Any length, w and r: the last segment is just shorter.
    """

    segment_lengths: tuple[int, ...]
    dilation_rates: tuple[int, ...]
    offsets: Offsets = "modulo"
    kind: ClassVar[str] = "dilated"

    def __post_init__(self) -> None:
        object.__setattr__(self, "segment_lengths", tuple(self.segment_lengths))
        object.__setattr__(self, "dilation_rates", tuple(self.dilation_rates))
        if not self.segment_lengths or len(self.segment_lengths) != len(self.dilation_rates):
            raise PatternError(
                f"segment_lengths has {len(self.segment_lengths)} entries and dilation_rates "
                f"{len(self.dilation_rates)}, but they must be equally many and at least one"
            )
        for name in ("segment_lengths", "dilation_rates"):
            for entry in getattr(self, name):
                if type(entry) is not int or entry < 1:
                    raise PatternError(f"{name} holds {entry}, but every entry must be a whole number of at least 1")
        if self.offsets not in ("modulo", "blocked"):
            raise PatternError(f"offsets is {self.offsets!r}, but must be 'modulo' or 'blocked'")

    @classmethod
    def longnet(cls, seq_len: int, *, offsets: Offsets = "modulo") -> "Dilated":
        """The paper's geometric schedule: w = 2048 * 4^i with the last w = seq_len, r = 4^i.

        >>> Dilated.longnet(16384)
        Dilated(segment_lengths=(2048, 8192, 16384), dilation_rates=(1, 4, 16), offsets='modulo')
        """
        segments: list[int] = []
        rates: list[int] = []
        while not segments or segments[-1] < seq_len:
            segments.append(min(2048 * 4 ** len(segments), seq_len))
            rates.append(4 ** len(rates))
        return cls(tuple(segments), tuple(rates), offsets)

    @property
    def label(self) -> str:
        """Segment lengths and rates."""
        text = f"dilated w={list(self.segment_lengths)} r={list(self.dilation_rates)}"
        return text if self.offsets == "modulo" else f"{text} {self.offsets}"

    @property
    def branches(self) -> Iterator[tuple[int, int]]:
        """(w, r) of every branch."""
        return zip(self.segment_lengths, self.dilation_rates, strict=True)

    def head_classes(self, head_count: int, rate: int) -> Iterator[tuple[int, slice]]:
        """The heads that share an offset, as (offset, slice of heads), for one branch."""
        size = -(-head_count // rate)
        for offset in range(min(rate, head_count)):
            if self.offsets == "modulo":
                heads = slice(offset, head_count, rate)
            else:
                heads = slice(offset * size, min((offset + 1) * size, head_count))
            if heads.start < head_count:
                yield offset, heads

    def validate(self, problem: Problem) -> None:
        """Refuse cross-attention, and segments that leave a query without a key."""
        require_self_attention(self, problem)
        if missing := _uncovered(self, problem):
            rows = problem.heads * problem.query_len
            raise PatternError(
                f"{self.label} leaves {missing} of {rows} (head, query) rows without a key at length "
                f"{problem.query_len} with {problem.heads} heads, but must leave none; add a branch of dilation rate 1"
            )

    def multiplicity(
        self, problem: Problem, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """The number of branches in which both lie on the grid of one segment."""
        count: torch.Tensor | None = None
        for w, r in self.branches:
            offset = head % r if self.offsets == "modulo" else head // -(-problem.heads // r)
            seen = (query // w == key // w) & ((query % w) % r == offset) & ((key % w) % r == offset)
            count = seen.to(torch.int32) if count is None else count + seen.to(torch.int32)
        assert count is not None
        return count

    def pairs(self, problem: Problem) -> int:
        """Sum of the grid squares (triangles if causal) of all segments."""
        return _pairs(self, problem)

    def coverage(self, problem: Problem) -> float:
        """Counted."""
        return 1.0 - _uncovered(self, problem) / (problem.heads * problem.query_len)

    def reach(self, problem: Problem) -> int | None:
        """Diameter of the graph in which every grid of a segment is a clique, heads and branches united."""
        return _reach(self, problem.query_len, problem.heads)

    def extent(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """From the start of the earliest segment involved to the end of the latest."""
        first = min(start // w * w for w in self.segment_lengths)
        last = max(((stop - 1) // w + 1) * w for w in self.segment_lengths)
        return (first, min(last, problem.kv_len))


def grid_count(length: int, offset: int, rate: int) -> int:
    """Grid positions in a segment of ``length``.

    >>> grid_count(10, 1, 4)
    3
    """
    return len(range(offset, length, rate))


@lru_cache(maxsize=1024)
def _pairs(pattern: Dilated, problem: Problem) -> int:
    total = 0
    for w, r in pattern.branches:
        full, tail = divmod(problem.query_len, w)
        for offset, heads in pattern.head_classes(problem.heads, r):
            members = len(range(*heads.indices(problem.heads)))
            for segments, length in ((full, w), (1, tail)):
                count = grid_count(length, offset, r)
                total += members * segments * (count * (count + 1) // 2 if problem.causal else count * count)
    return total


@lru_cache(maxsize=1024)
def _uncovered(pattern: Dilated, problem: Problem) -> int:
    if 1 in pattern.dilation_rates:
        return 0
    positions = torch.arange(problem.query_len)
    covered = torch.zeros(problem.heads, problem.query_len, dtype=torch.bool)
    for w, r in pattern.branches:
        for offset, heads in pattern.head_classes(problem.heads, r):
            covered[heads] |= (positions % w) % r == offset
    return int((~covered).sum())


@lru_cache(maxsize=1024)
def _reach(pattern: Dilated, seq_len: int, heads: int) -> int | None:
    positions = torch.arange(seq_len)
    memberships = []
    for w, r in pattern.branches:
        offsets = 1 + max(offset for offset, _ in pattern.head_classes(heads, r))
        residue = (positions % w) % r
        clique = positions // w * offsets + residue
        memberships.append(torch.where(residue < offsets, clique, -1))
    return diameter(torch.stack(memberships, dim=1))
