"""Hypothesis strategies for small problems and patterns on them."""

from hypothesis import settings
from hypothesis import strategies as st

from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
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


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small sequence that attends to itself."""
    return Problem.self_attention(draw(st.integers(1, 33)), heads=draw(st.integers(1, 6)), causal=draw(st.booleans()))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pattern, Problem]:
    """A pattern and a problem that it is defined for."""
    return draw(st.one_of(st.just(Dense()), dilated(), local_windows)), draw(problems())
