"""The base of strategies that are a list of dense tiles."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import ClassVar

import torch

from autotune.strategies.compiling import compiled
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.kernel_choice import FOLDING, kernel_by_name, kernel_names
from autotune.strategies.lanes import CpuLanes
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy
from autotune.strategies.tile_attention import Merge, TilePlan, bind, merge_rows, merging
from autotune.strategies.tile_memory import TileSizes, tile_bytes
from autotune.strategies.tile_schedule import Cuts, TileSchedule
from autotune.strategies.tiles import Tile

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

    tiled_by: ClassVar[tuple[str, ...]] = ()  # the parameters that `tiles` looks at

    @abstractmethod
    def tiles(self, problem: Problem, pattern: Pattern, config: Config) -> Iterable[Tile]:
        """The tiles whose union is the pattern."""

    @abstractmethod
    def serves(self, pattern: Pattern) -> bool:
        """Whether this is a pattern the strategy has tiles for."""

    def choices(self, problem: Problem, pattern: Pattern) -> tuple[Choice, ...]:
        """Parameters of the tiles."""
        return ()

    def keys_at_once(self, problem: Problem, config: Config) -> int:
        """How many keys all queries of a block visit before the next ones; 0 for all."""
        return 0

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """The pattern, or a dtype that no kernel with a log-sum-exp takes."""
        if not self.serves(pattern):
            return f"has no tiles for {pattern.label}"
        if not kernel_names(problem):
            return f"no flash kernel on {problem.device} for {problem.dtype} with head_dim {problem.head_dim}"
        return None

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """The kernel, parameters of the tiles, compile options."""
        kernels = kernel_names(problem)
        # More than half the queries are hard to tell from all at once (0.6 % slower at 5,000), and save little.
        sizes = (size for size in QUERY_BLOCKS[problem.device] if 2 * size <= problem.query_len)
        blocks = Choice("query_block", tuple(sizes))
        compiled = Choice("compile", ("off", "default"))
        kernel = (Choice("kernel", kernels),) if kernels else ()
        choices = (*kernel, *self.choices(problem, pattern), blocks, compiled)
        return Space(self.name, tuple(_where_it_counts(choice, problem) for choice in choices))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Output, log-sum-exp, the running block and the largest kernel call; gradients when training."""
        folds = config.string("kernel", "") in FOLDING
        sizes, cuts = self._sizes(problem, pattern, config), self._cuts(problem, config)
        return tile_bytes(problem, sizes, cuts, copies=_copies(config), folds=folds)

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Those of the tiles."""
        return pattern.flops(problem) * self._sizes(problem, pattern, config).pairs / pattern.pairs(problem)

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind the tiles to a kernel and a merge."""
        return bind(self.plan(problem, pattern, config))

    def plan(self, problem: Problem, pattern: Pattern, config: Config) -> TilePlan:
        """The tiles with their kernel and merge."""
        names = kernel_names(problem)
        kernel = kernel_by_name(problem, config.string("kernel", names[0] if names else ""))
        cuts = self._cuts(problem, config)
        schedule = TileSchedule(self.tiles(problem, pattern, config), problem.query_len, cuts)
        if isinstance(kernel, CpuLanes):
            return TilePlan(schedule, kernel.fold, kernel.backward, kernel.unfold, narrows=True)
        fold = merging(kernel, _merge(config.string("compile", "off"), problem.dtype))
        return TilePlan(schedule, fold, kernel.backward, copies=_copies(config))

    def _cuts(self, problem: Problem, config: Config) -> Cuts:
        return Cuts(_query_block(problem, config), self.keys_at_once(problem, config), _copied_at_once(problem))

    def _sizes(self, problem: Problem, pattern: Pattern, config: Config) -> TileSizes:
        """Those of the tiles, once for all configurations that have the same ones."""
        params = tuple(param for param in config.params if param[0] in self.tiled_by)
        return _sizes(self, problem, pattern, Config(config.strategy, params))


@lru_cache(maxsize=256)
def _sizes(strategy: TileStrategy, problem: Problem, pattern: Pattern, config: Config) -> TileSizes:
    return TileSizes.of(strategy.tiles(problem, pattern, config))


def _where_it_counts(choice: Choice, problem: Problem) -> Choice:
    """The choice, unless the kernel brings rows together and merges by itself."""
    if problem.device != "cpu" or choice.name not in ("reads", "compile"):
        return choice
    return replace(choice, when=("kernel", tuple(name for name in kernel_names(problem) if name not in FOLDING)))


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
