"""Which problems, patterns and configurations the contract is run over."""

from dataclasses import dataclass, replace

import pytest

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Problem

OWN_BLOCKS = """\
###.....
#....#..
.##.....
...##..#
##..#.#.
....##..
#..#..##
.......#"""  # as an eighth of 127 tokens or so; a row without its diagonal, another that ends on a short block

PATTERNS: dict[str, Pattern] = {
    "dense": Dense(),
    "dilated": Dilated((32, 64), (1, 2)),
    "dilated-uneven": Dilated((24, 50), (1, 3)),  # r does not divide w, w divides no length
    "dilated-blocked": Dilated((32, 64), (1, 4), "blocked"),
    "dilated-blocked-uneven": Dilated((10, 50, 333), (1, 3, 7), "blocked"),
    "dilated-wide": Dilated((6000, 16, 90), (16, 1, 5)),  # r beyond the heads, w beyond the length, unsorted
    "dilated-repeated": Dilated((16, 16, 40, 40), (1, 1, 3, 3)),
    "dilated-patchy": Dilated((1, 3, 100), (1, 7, 12)),  # r beyond w: a branch that most heads have no grid in
    "dilated-nested": Dilated((16, 32, 96), (1, 2, 4)),  # whose keys can be united
    "longnet-small": Dilated((16, 64, 256, 1024, 4096), (1, 4, 16, 64, 256)),
    "window-16": LocalWindow(sparsity=0.9, block_size=16),
    "window-64": LocalWindow(sparsity=0.5, block_size=64),
    "window-128": LocalWindow(sparsity=0.95, block_size=128),
    "window-7": LocalWindow(sparsity=0.8, block_size=7),
    "window-1": LocalWindow(sparsity=0.97, block_size=1),
    "window-full": LocalWindow(sparsity=0.0, block_size=24),
    "global-random-16": GlobalWindowRandom(1, 3, 2, seed=1, block_size=16),
    "global-random-7": GlobalWindowRandom(2, 1, 4, block_size=7),
    "random-1": GlobalWindowRandom(0, 1, 3, seed=2, block_size=1),
    "strided-16": Strided(2, 3, block_size=16),
    "strided-7": Strided(1, 4, block_size=7),
    "layout-16": BlockLayout.from_mask([[mark == "#" for mark in row] for row in OWN_BLOCKS.split()], block_size=16),
}
# One of every kind of tile: for the properties that do not depend on the geometry.
SUBSET = (
    *("dense", "dilated-blocked-uneven", "dilated-wide", "dilated-patchy", "dilated-nested"),
    *("window-16", "window-128", "window-7", "global-random-7"),
)
FEW = {name: PATTERNS[name] for name in SUBSET}
DTYPES = ("float32", "bfloat16", "float16")
# (query heads, key heads, head_dim): grouped, grouped with a wide odd head, as many as queries, one for all.
SHAPES = ((6, 2, 40), (12, 3, 80), (5, 5, 40), (4, 1, 33))


@dataclass(frozen=True)
class Case:
    """One implementation of one function for one problem."""

    strategy: str
    pattern_name: str
    pattern: Pattern
    problem: Problem
    config: Config

    def build(self):
        """The implementation."""
        return STRATEGIES[self.strategy].build(self.problem, self.pattern, self.config)

    @property
    def id(self) -> str:
        """Which test this is."""
        config = ",".join(str(value) for value in self.config.values.values())
        return f"{self.strategy}({config})-{self.pattern_name}-{self.problem.key.removeprefix('cpu/')}"


def is_compiled(config: Config) -> bool:
    """Whether running it costs seconds of compilation first."""
    return config.string("compile", "off") != "off"


def self_attention(seq_len: int, *, shape: tuple[int, int, int] = SHAPES[0], **fields: object) -> Problem:
    """A batch of two."""
    heads, kv_heads, head_dim = shape
    return Problem.self_attention(seq_len, batch=2, heads=heads, kv_heads=kv_heads, head_dim=head_dim, **fields)


def fits(pattern: Pattern, problem: Problem) -> bool:
    """Whether the pattern is defined for the problem: a block layout is for one number of blocks only."""
    try:
        pattern.validate(problem)
    except PatternError:
        return False
    return True


def expand(problems, patterns=PATTERNS, *, every_config: bool = False) -> list[Case]:
    """All supported (strategy, pattern, problem) that run uncompiled: by default, or in every such configuration."""
    cases = []
    for problem in problems:
        for name, pattern in patterns.items():
            for strategy in STRATEGIES.values():
                if strategy.refusal(problem, pattern) is None and fits(pattern, problem):
                    configs = [config for config in strategy.space(problem, pattern) if not is_compiled(config)]
                    chosen = configs if every_config else configs[:1]
                    cases += [Case(strategy.name, name, pattern, problem, config) for config in chosen]
    return cases


def over(cases: list[Case]):
    """Run a test for each case."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def both_ways(problems) -> list[Problem]:
    """Each problem without and with the causal cut."""
    return [replace(problem, causal=causal) for problem in problems for causal in (False, True)]
