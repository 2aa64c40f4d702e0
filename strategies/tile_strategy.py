"""The base of strategies that are a list of dense tiles."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

import torch

from autotune.strategies.compiling import compiled
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.gathers import Gather
from autotune.strategies.kernels import kernel_by_name, kernel_names
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy
from autotune.strategies.tile_attention import Merge, QueryBlock, TilePlan, bind, merge_rows
from autotune.strategies.tile_cuts import within_copies, within_grid, within_queries
from autotune.strategies.tiles import Span, Tile

# The first is the default. On two CPU cores blocks are as fast, and halve the peak memory of dilated attention.
QUERY_BLOCKS = {"cpu": (4096, 0, 16384), "cuda": (0, 65536)}

# Enough for a call to be worth its overhead, little enough to stay in a cache.
COPIED_BYTES = 16 << 20


class TileStrategy(Strategy):
    """Describes its tiles; the tile core does the rest.

    ``reads``: whether kernels read rows that lie apart as they are, or copies that lie together.
    ``query_block``: how many queries are finished before the next begin, 0 for all at once; it bounds the workspace.
    What ``compile`` compiles here is the merge of partial softmaxes: the tiles themselves run on vendor kernels, and
    unrolling hundreds of them into one graph costs 40 s of compilation and runs slower (2 cores, 8,192 tokens).
    """

    @abstractmethod
    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterable[Tile]:
        """The tiles whose union is the pattern."""

    @abstractmethod
    def serves(self, pattern: Pattern) -> bool:
        """Whether this is a pattern the strategy has tiles for."""

    def choices(self, problem: Problem, pattern: Pattern) -> tuple[Choice, ...]:
        """Parameters of the tiles."""
        return ()

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """The pattern, or a dtype that no kernel with a log-sum-exp takes."""
        if not self.serves(pattern):
            return f"has no tiles for {pattern.label}"
        if not kernel_names(problem):
            return f"no flash kernel on {problem.device} for {problem.dtype} with head_dim {problem.head_dim}"
        return None

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """Parameters of the tiles, the kernel where there are several, compile options."""
        kernels = kernel_names(problem)
        kernel = (Choice("kernel", kernels),) if len(kernels) > 1 else ()
        blocks = Choice("query_block", tuple(size for size in QUERY_BLOCKS[problem.device] if size < problem.query_len))
        compiled = Choice("compile", ("off", "default"))
        return Space(self.name, (*self.choices(problem, pattern), blocks, *kernel, compiled))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Output, log-sum-exp, the running block and the largest partial result; gradients when training."""
        item, rows = problem.torch_dtype.itemsize, problem.batch * problem.heads * problem.query_len
        block = _query_block(problem, config)
        tiles = self.tiles(problem, pattern, config)
        partial = max(_partial_bytes(tile, problem, block, _copies(config)) for tile in tiles)
        total = problem.output_bytes + rows * 4 + partial
        if item < 4:
            total += problem.batch * problem.heads * block * problem.head_dim * 4
        if problem.training:
            kv_elements = problem.kv_bytes // item
            total += (rows * problem.head_dim + kv_elements) * 4 + 2 * partial + problem.output_bytes
            total += problem.output_bytes + problem.kv_bytes if item < 4 else 0
        return total

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Those of the tiles."""
        pairs = sum(tile.head_count * tile.pairs for tile in self.tiles(problem, pattern, config))
        return pattern.flops(problem) * pairs / pattern.pairs(problem)

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind the tiles to a kernel and a merge."""
        names = kernel_names(problem)
        kernel = kernel_by_name(problem, config.string("kernel", names[0] if names else ""))
        tiles = [part for tile in self.tiles(problem, pattern, config) for part in within_grid(tile)]
        size, length = _query_block(problem, config), problem.query_len
        most = _copied_at_once(problem)
        blocks = [
            QueryBlock(start, min(start + size, length), tuple(_pieces(tiles, start, start + size, most)))
            for start in range(0, length, size)
        ]
        merge = _merge(config.string("compile", "off"), problem.dtype)
        return bind(TilePlan(tuple(blocks), kernel, merge, copies=_copies(config)))


def _pieces(tiles: Iterable[Tile], start: int, stop: int, most: int) -> Iterator[Tile]:
    """What the tiles do for some queries, with at most so many key positions copied at once."""
    for tile in within_queries(tiles, start, stop):
        yield from within_copies(tile, most)


def _copied_at_once(problem: Problem) -> int:
    """Key positions that a gather may copy for one call, of keys and values with all their heads."""
    return COPIED_BYTES // (2 * problem.heads * problem.head_dim * problem.torch_dtype.itemsize)


def _query_block(problem: Problem, config: Config) -> int:
    """Queries in a block.

    Raises:
        ConfigError: it is negative.
    """
    if (size := config.integer("query_block", 0)) < 0:
        raise ConfigError(f"query_block is {size}, but must be at least 1, or 0 for all queries at once")
    return min(size, problem.query_len) or problem.query_len


@lru_cache
def _merge(mode: str, dtype: str) -> Merge:
    """The merge pass; compiled once for all lengths, by dtype, so that the graphs of each stay few."""
    if mode == "off":
        return merge_rows
    return partial(_merge_compiled, compiled(merge_rows, Config.of(dtype, compile=mode, dynamic=True)))


def _merge_compiled(
    merge: Merge, total: torch.Tensor, total_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> None:
    """Merge without dimensions of size 1, for which a dynamic graph would be compiled anew.

    What is left are ranks and relations of strides: a few dozen graphs at most, more than dynamo's usual limit of 8.
    """
    where = tuple(0 if size == 1 else slice(None) for size in lse.shape)
    with torch._dynamo.config.patch(recompile_limit=64):
        merge(total[where], total_lse[where], out[where], lse[where])


def _copies(config: Config) -> bool:
    """Whether kernels read copies of rows that lie apart."""
    return config.string("reads", "views") == "copies"


def _partial_bytes(tile: Tile, problem: Problem, block: int, copies: bool) -> int:
    """Output and log-sum-exp of one call on one batch element or all, and the keys and queries that it copies."""
    repeat, rows = _most_rows(tile.query, block)
    if isinstance(tile.key, Gather):
        most = max(_copied_at_once(problem), tile.key.piece)
        repeat = min(repeat, max(1, most // tile.key.length))
    item, width = problem.torch_dtype.itemsize, problem.head_dim
    heads = tile.head_count * (problem.batch if isinstance(tile.query, Span) and tile.query.repeat == 1 else repeat)
    copied = heads * tile.key.length if problem.group_size > 1 or (copies and tile.key.step > 1) else 0
    size = heads * rows * (width * item * (2 if copies and tile.query.step > 1 else 1) + 4)
    if item < 4:  # spread to float32 when merged
        size += heads * rows * width * 4
    if isinstance(tile.key, Gather):
        size += heads * rows * (width * (item + 4) + 4)
        copied += tile.head_count * min(repeat * tile.key.length, most)
    return size + 2 * copied * width * item


def _most_rows(query: Span | Gather, block: int) -> tuple[int, int]:
    """The most (repeats, rows of each) that fall into one block of queries.

    >>> _most_rows(Span(0, 512, step=4, repeat=8, stride=2048), 4096), _most_rows(Span(0, 4096, step=4), 4096)
    ((2, 512), (1, 1024))
    """
    stride = query.length if isinstance(query, Gather) else query.stride
    if query.repeat == 1 or block < stride:
        return 1, min(query.length, -(-block // query.step))
    return min(query.repeat, -(-block // stride)), query.length
