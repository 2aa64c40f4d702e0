"""Ring attention on one device: keys and values visited chunk by chunk (arXiv 2310.01889)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from autotune.strategies.config import Config
from autotune.strategies.dilated import dilated_tiles, reads
from autotune.strategies.errors import ConfigError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Tile, dense_tile

CHUNK_SIZES = (4096, 1024, 16384, 65536, 262144)


class Ring(TileStrategy):
    """Dense or dilated attention whose every pass touches one chunk of keys."""

    name: ClassVar[str] = "ring"

    def serves(self, pattern: Pattern) -> bool:
        """Dense and dilated attention."""
        return isinstance(pattern, Dense | Dilated)

    def choices(self, problem: Problem, pattern: Pattern) -> tuple[Choice, ...]:
        """Chunk sizes that make at least two chunks; half the keys where the sequence is shorter than that."""
        sizes = tuple(size for size in CHUNK_SIZES if size < problem.kv_len)
        return (Choice("chunk_size", sizes or (max(1, -(-problem.kv_len // 2)),)), *reads(pattern))

    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterator[Tile]:
        """The pattern's tiles; of several, an early chunk of one may write a row before the one that had it first."""
        if isinstance(pattern, Dilated):
            return (replace(tile, fresh=False) for tile in dilated_tiles(problem, pattern))
        return iter([dense_tile(problem.query_len, problem.kv_len, problem.heads, causal=problem.causal)])

    def keys_at_once(self, problem: Problem, config: Config) -> int:
        """A chunk."""
        chunk_size = config.integer("chunk_size", CHUNK_SIZES[0])
        if chunk_size < 1:
            raise ConfigError(f"chunk_size is {chunk_size}, but must be at least 1")
        return chunk_size
