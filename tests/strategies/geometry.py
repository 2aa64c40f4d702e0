"""Hypothesis strategies for small problems and patterns on them."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Problem

# The same examples on every run: a red build must be red for whoever repeats it.
examples = settings(max_examples=150, deadline=None, derandomize=True)

offset_rules = st.sampled_from(["modulo", "blocked"])
sparsities = st.integers(0, 99).map(lambda percent: percent / 100)


@st.composite
def dilated(draw: st.DrawFn, *, with_rate_one: bool = True) -> Dilated:
    """Any w and r: w beyond the length, r that does not divide w, r beyond the heads, repeated branches."""
    branches = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=3))
    if with_rate_one:
        branches = draw(st.permutations([*branches, (draw(st.integers(1, 40)), 1)]))
    segment_lengths, dilation_rates = zip(*branches, strict=True)
    return Dilated(segment_lengths, dilation_rates, draw(offset_rules))


local_windows = st.builds(LocalWindow, sparsity=sparsities, block_size=st.integers(1, 12))


big_birds = st.builds(
    GlobalWindowRandom,
    global_blocks=st.integers(0, 3),
    window_blocks=st.integers(0, 3).map(lambda half: 2 * half + 1),
    random_blocks=st.integers(0, 5),
    seed=st.sampled_from([0, 1, 2**64 - 1]),
    block_size=st.integers(1, 12),
)
strided = st.builds(
    Strided, local_blocks=st.integers(1, 4), stride_blocks=st.integers(1, 9), block_size=st.integers(1, 12)
)


@st.composite
def block_layouts(draw: st.DrawFn, problem: Problem) -> BlockLayout:
    """Any mask whose rows see the diagonal, or at least a block that comes before it."""
    size = draw(st.integers(1, 12))
    blocks = -(-problem.query_len // size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    mask = torch.rand(blocks, blocks, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    for i in range(blocks):
        mask[i, draw(st.integers(0, i))] = True
    return BlockLayout.from_mask(mask, size)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small sequence that attends to itself."""
    return Problem.self_attention(draw(st.integers(1, 33)), heads=draw(st.integers(1, 6)), causal=draw(st.booleans()))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pattern, Problem]:
    """A pattern and a problem that it is defined for."""
    problem = draw(problems())
    patterns = (st.just(Dense()), dilated(), local_windows, big_birds, strided, block_layouts(problem))
    return draw(st.one_of(*patterns)), problem
