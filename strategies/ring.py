"""Ring attention on one device: keys and values visited chunk by chunk (arXiv 2310.01889).

They may lie in the host's memory; then the device holds two chunks of them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from autotune.strategies.config import Config
from autotune.strategies.dilated import dilated_tiles, reads
from autotune.strategies.errors import ConfigError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import KvHome, Problem
from autotune.strategies.space import Choice
from autotune.strategies.strategy import Attention
from autotune.strategies.streaming import CHUNKS_HELD, bind_streamed
from autotune.strategies.tile_strategy import TileStrategy
from autotune.strategies.tiles import Tile, dense_tile

CHUNK_SIZES = (4096, 1024, 16384, 65536, 262144)


class Ring(TileStrategy):
    """Dense or dilated attention whose every pass touches one chunk of keys."""

    name: ClassVar[str] = "ring"
    kv_homes: ClassVar[tuple[KvHome, ...]] = ("device", "host")

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """As any tile strategy; keys and values in the host's memory serve dense attention, forward."""
        if problem.kv_home == "host" and problem.training:
            return "streams keys and values from the host forward only, without gradients"
        if problem.kv_home == "host" and not isinstance(pattern, Dense):
            return f"streams keys and values from the host for dense attention only, not for {pattern.label}"
        return super().unsupported(problem, pattern)

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

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """As any tile strategy; beside it the chunks that are held of what lies in the host's memory."""
        bytes_held = super().memory_bytes(problem, pattern, config)
        if problem.kv_home == "host":
            chunk = min(self.keys_at_once(problem, config), problem.kv_len)
            bytes_held += CHUNKS_HELD * chunk * problem.kv_bytes // problem.kv_len
        return bytes_held

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind the tiles, and where need be the stream that brings them their keys and values."""
        if problem.kv_home == "device":
            return super().build(problem, pattern, config)
        return bind_streamed(self.plan(problem, pattern, config), self.keys_at_once(problem, config))
