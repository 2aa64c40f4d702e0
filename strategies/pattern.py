"""Which function is computed: the base of all patterns, and dense attention."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import torch

from autotune.strategies.errors import PatternError
from autotune.strategies.problem import Problem

# Arithmetic of the training step relative to the forward pass: two matrix products forward, five backward.
TRAINING_FLOPS_FACTOR = 3.5


@dataclass(frozen=True)
class Pattern(ABC):
    """A function of query, key and value: how often each query counts each key in its softmax.

    Two patterns are two functions, and never compete unless the caller accepts both. Equal patterns have equal keys.
    """

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Canonical JSON that identifies the pattern in the database.

        >>> Dense().key
        '{"kind":"dense"}'
        """
        return json.dumps({"kind": self.kind, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @property
    @abstractmethod
    def label(self) -> str:
        """The pattern as a person reads it."""

    def validate(self, problem: Problem) -> None:  # noqa: B027 - most patterns take every problem
        """Refuse a problem for which the pattern is not defined.

        Raises:
            PatternError: the pattern cannot be applied, or leaves some query without a key.
        """

    @abstractmethod
    def multiplicity(
        self, problem: Problem, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """How often a query counts a key, before the causal cut.

        Args:
            problem: the shapes in question.
            head: head numbers, of a shape that broadcasts against the others.
            query: query positions, likewise.
            key: key positions, likewise.

        Returns:
            Integers of the broadcast shape; 0 where the query does not see the key.
        """

    def counter(self, problem: Problem) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """`multiplicity` of (head, query, key) with all that depends on the problem worked out before."""
        return partial(self.multiplicity, problem)

    @abstractmethod
    def pairs(self, problem: Problem) -> int:
        """(query, key) pairs over all heads of one batch element, with multiplicity and after the causal cut."""

    @abstractmethod
    def reach(self, problem: Problem) -> int | None:
        """Layers until every token can influence every other (causal cut left aside); None where it never can."""

    @abstractmethod
    def extent(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """The tightest simple key range that holds all keys seen by queries ``start .. stop - 1`` (no causal cut)."""

    def common(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """A key range that every query of ``start .. stop - 1`` sees exactly once (no causal cut); may be empty."""
        return (0, 0)

    def mask_rows(self, problem: Problem, head: int, queries: torch.Tensor) -> torch.Tensor:
        """Multiplicity of every key for some queries of one head, causal cut included.

        Args:
            problem: the shapes in question.
            head: query head.
            queries: query indices, shape (R,).

        Returns:
            Integers of shape (R, kv_len).
        """
        keys = torch.arange(problem.kv_len, device=queries.device)
        count = self.multiplicity(problem, torch.tensor(head, device=queries.device), queries[:, None], keys)
        count = count.broadcast_to(len(queries), problem.kv_len)
        return count * (keys <= queries[:, None]) if problem.causal else count

    def keys_per_query(self, problem: Problem) -> float:
        """Mean number of keys a query counts, with multiplicity."""
        return self.pairs(problem) / (problem.heads * problem.query_len)

    def density(self, problem: Problem) -> float:
        """Share of the full query x key square that is computed, with multiplicity."""
        return self.keys_per_query(problem) / problem.kv_len

    def flops(self, problem: Problem) -> float:
        """Floating-point operations of the function itself, whatever computes it."""
        forward = 4.0 * problem.batch * self.pairs(problem) * problem.head_dim
        return forward * TRAINING_FLOPS_FACTOR if problem.training else forward

    def coverage(self, problem: Problem) -> float:
        """Share of (head, query) rows that see at least one key; must be 1."""
        return 1.0


@dataclass(frozen=True)
class Dense(Pattern):
    """Every query sees every key: softmax(q kT * scale) v."""

    kind: ClassVar[str] = "dense"

    @property
    def label(self) -> str:
        """``dense``."""
        return "dense"

    def multiplicity(
        self, problem: Problem, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """Once, always."""
        return torch.ones_like(head * query * key, dtype=torch.int32)

    def pairs(self, problem: Problem) -> int:
        """The full rectangle, or what lies under its top-left diagonal.

        >>> Dense().pairs(Problem.self_attention(4, heads=1, causal=True))
        10
        """
        rows, columns = problem.query_len, problem.kv_len
        if not problem.causal:
            return problem.heads * rows * columns
        square = min(rows, columns)
        return problem.heads * (square * (square + 1) // 2 + (rows - square) * columns)

    def reach(self, problem: Problem) -> int:
        """One layer."""
        return 1

    def extent(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """All keys."""
        return (0, problem.kv_len)

    def common(self, problem: Problem, start: int, stop: int) -> tuple[int, int]:
        """All keys."""
        return (0, problem.kv_len)


def require_self_attention(pattern: Pattern, problem: Problem) -> None:
    """Refuse problems whose query and key lengths differ.

    Raises:
        PatternError: the lengths differ.
    """
    if problem.query_len != problem.kv_len:
        raise PatternError(
            f"{pattern.label} got query_len {problem.query_len} and kv_len {problem.kv_len}, but is defined for "
            "self-attention, where they are equal; use Dense() here"
        )
