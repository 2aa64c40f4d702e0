"""Which cells a tuning run covers: devices, lengths and patterns multiplied out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from autotune.strategies.errors import PatternError, ProblemError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Direction, KvHome, Problem

DEFAULT_PATTERNS = ("dense", "dilated", "local_window")
PATTERN_NAMES = (*DEFAULT_PATTERNS, "global_window_random", "strided")
DEFAULT_SPARSITIES = (0.9, 0.95)
DEFAULT_LENGTHS = {
    "cpu": (4096, 8192),
    "cuda": (4096, 8192, 16384, 32768, 65536, 131072, 262144),
}
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "float16"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one search covers: a problem and a pattern on a device."""

    device: torch.device
    problem: Problem
    pattern: Pattern

    @property
    def label(self) -> str:
        """The cell as a person reads it."""
        return f"{self.pattern.label}, {self.problem.query_len:,} tokens on {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The problems and patterns to tune; None leaves the choice to the device.

    What a sparsity means for each block-sparse pattern is said by its ``of_sparsity``, and by `LocalWindow`.
    """

    lengths: Sequence[int] | None = None
    patterns: Sequence[str | Pattern] = DEFAULT_PATTERNS
    sparsities: Sequence[float] = DEFAULT_SPARSITIES
    segment_lengths: Sequence[int] | None = None
    dilation_rates: Sequence[int] | None = None
    batch: int = 1
    heads: int = 8
    kv_heads: int | None = None
    head_dim: int = 64
    dtype: str | None = None
    causal: bool = False
    direction: Direction = "forward"
    kv_home: KvHome = "device"

    def cells(self, device: torch.device) -> list[Cell]:
        """All cells on one device, the shortest length first, so that failures there spare the longer ones.

        Raises:
            ProblemError: the shapes are impossible, or no call reads these keys from the host's memory.
            PatternError: a pattern is unknown or does not fit a length.
        """
        if self.kv_home == "host":
            self._require_streaming(device)
        lengths = self.lengths or DEFAULT_LENGTHS[device.type]
        cells = []
        for length in sorted(lengths):
            problem = self._problem(device, length)
            for pattern in self._patterns(length):
                pattern.validate(problem)
                cells.append(Cell(device, problem, pattern))
        return list(dict.fromkeys(cells))

    def _require_streaming(self, device: torch.device) -> None:
        names = [each if isinstance(each, str) else each.label for each in self.patterns]
        if device.type != "cuda" or self.direction != "forward" or "dense" not in names:
            raise ProblemError(
                f"kv_home is 'host' on {device.type}, {self.direction}, for {', '.join(names)}, but must be 'device' "
                "unless dense attention runs forward on cuda; leave it out"
            )

    def _problem(self, device: torch.device, length: int) -> Problem:
        return Problem(
            batch=self.batch,
            heads=self.heads,
            kv_heads=self.heads if self.kv_heads is None else self.kv_heads,
            query_len=length,
            kv_len=length,
            head_dim=self.head_dim,
            dtype=self.dtype or DEFAULT_DTYPES[device.type],
            causal=self.causal,
            direction=self.direction,
            device=device.type,
            kv_home=self.kv_home,
        )

    def _patterns(self, length: int) -> Iterator[Pattern]:
        for pattern in self.patterns:
            if isinstance(pattern, Pattern):
                yield pattern
            elif pattern == "dense":
                yield Dense()
            elif pattern == "dilated":
                yield self._dilated(length)
            elif pattern in PATTERN_NAMES:
                yield from (_block_sparse(pattern, sparsity, length) for sparsity in self.sparsities)
            else:
                raise PatternError(f"pattern is {pattern!r}, but must be one of {', '.join(PATTERN_NAMES)}")

    def _dilated(self, length: int) -> Dilated:
        if self.segment_lengths is None and self.dilation_rates is None:
            return Dilated.longnet(length)
        return Dilated(tuple(self.segment_lengths or ()), tuple(self.dilation_rates or ()))


def _block_sparse(name: str, sparsity: float, length: int) -> Pattern:
    if name == "global_window_random":
        return GlobalWindowRandom.of_sparsity(sparsity, length)
    return Strided.of_sparsity(sparsity, length) if name == "strided" else LocalWindow(sparsity)
