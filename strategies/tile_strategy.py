"""The base of strategies that are a list of dense tiles."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import lru_cache, partial

import torch

from autotune.strategies.compiling import compiled
from autotune.strategies.config import Config
from autotune.strategies.kernels import kernel_by_name, kernel_names
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy
from autotune.strategies.tile_attention import Merge, TilePlan, bind, merge_rows
from autotune.strategies.tiles import Tile, within_grid


class TileStrategy(Strategy):
    """Describes its tiles; the tile core does the rest.

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
        return Space(self.name, (*self.choices(problem, pattern), *kernel, Choice("compile", ("off", "default"))))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Running output and log-sum-exp in float32, the largest partial result, and gradients when training."""
        item = problem.torch_dtype.itemsize
        rows = problem.batch * problem.heads * problem.query_len
        running = rows * (problem.head_dim + 1) * 4
        partial = max(_partial_bytes(tile, problem) for tile in self.tiles(problem, pattern, config))
        total = running + max(partial, problem.output_bytes if item < 4 else 0)
        if problem.training:
            kv_elements = problem.kv_bytes // item
            total += (rows * problem.head_dim + kv_elements) * 4 + 2 * partial + problem.output_bytes
            total += problem.output_bytes + problem.kv_bytes if item < 4 else 0
        return total

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Those of the tiles."""
        pairs = sum(_head_count(tile) * tile.pairs for tile in self.tiles(problem, pattern, config))
        return pattern.flops(problem) * pairs / pattern.pairs(problem)

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind the tiles to a kernel and a merge."""
        names = kernel_names(problem)
        kernel = kernel_by_name(problem, config.string("kernel", names[0] if names else ""))
        tiles = tuple(part for tile in self.tiles(problem, pattern, config) for part in within_grid(tile))
        return bind(TilePlan(tiles, kernel, _merge(config.string("compile", "off"), problem.dtype)))


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


def _head_count(tile: Tile) -> int:
    return len(range(tile.heads.stop)[tile.heads])


def _partial_bytes(tile: Tile, problem: Problem) -> int:
    """Output and log-sum-exp of one tile on one batch element or all, and its copied keys with grouped heads."""
    heads = _head_count(tile) * (problem.batch if tile.query.repeat == 1 else tile.query.repeat)
    item = problem.torch_dtype.itemsize
    rows = heads * tile.query.length * (problem.head_dim * item + 4)
    if problem.group_size > 1:
        rows += 2 * heads * tile.key.length * problem.head_dim * item
    return rows
