"""Local windows: the width that a sparsity buys, the blocks of each row, refusals."""

import naive
import pytest
import torch
from geometry import examples, local_windows, sparsities
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.problem import Problem


@given(sparsities, st.integers(1, 40), st.integers(1, 400))
@examples
def test_half_width_is_the_largest_within_the_density(sparsity, block_size, seq_len):
    pattern = LocalWindow(sparsity=sparsity, block_size=block_size)
    assert pattern.half_width(seq_len) == naive.half_width(sparsity, block_size, seq_len)


@pytest.mark.parametrize(
    ("sparsity", "block_size", "seq_len", "expected"),
    [
        (0.9, 128, 4096, 1),  # 32 blocks: 94 / 1024 = 0.092; k = 2 would be 0.150
        (0.95, 128, 4096, 0),
        (0.9, 64, 8192, 6),  # 128 blocks: (128 * 13 - 42) / 16384 = 0.099
        (0.5, 1, 2, 0),  # the diagonal alone is exactly half: k = 1 would be everything
        (0.0, 16, 100, 6),  # everything
        (0.99, 128, 100, 0),  # one block
        (0.1, 1, 10, 6),  # 88 / 100 held
        (0.7, 1, 10, 1),  # 28 / 100: 1 - 0.7 is not exact in binary
        (0.28, 1, 5, 1),  # 13 / 25 = 0.52; k = 2 would be 0.76
    ],
)
def test_half_width_by_hand(sparsity, block_size, seq_len, expected):
    assert LocalWindow(sparsity=sparsity, block_size=block_size).half_width(seq_len) == expected


@pytest.mark.parametrize(
    ("seq_len", "block_size", "sparsity", "k"),
    [(10, 1, 0.72, 1), (10, 1, 0.56, 2), (10, 1, 0.9, 0), (4, 1, 0.375, 1), (100, 10, 0.72, 1)],
)
def test_density_that_meets_the_limit_exactly_is_within_it(seq_len, block_size, sparsity, k):
    pattern, problem = LocalWindow(sparsity=sparsity, block_size=block_size), Problem.self_attention(seq_len)
    assert pattern.half_width(seq_len) == k
    assert pattern.density(problem) == pytest.approx(1 - sparsity)


@given(local_windows, st.integers(1, 60))
@examples
def test_runs_are_the_blocks_within_k_and_always_the_diagonal(pattern, seq_len):
    k = naive.half_width(pattern.sparsity, pattern.block_size, seq_len)
    blocks = -(-seq_len // pattern.block_size)
    assert pattern.blocks(seq_len) == blocks
    for block in range(blocks):
        held = [j for start, stop in pattern.runs(seq_len, block) for j in range(start, stop)]
        assert held == [j for j in range(blocks) if abs(block - j) <= k]
        assert block in held


@given(local_windows, st.integers(1, 60))
@examples
def test_every_query_sees_itself_however_sparse(pattern, seq_len):
    problem = Problem.self_attention(seq_len, heads=1, causal=True)
    rows = pattern.mask_rows(problem, 0, torch.arange(seq_len))
    assert bool((rows.diagonal() == 1).all())
    assert int(rows.max()) == 1


def test_sparsity_zero_is_dense_attention():
    problem = Problem.self_attention(37, heads=2)
    pattern = LocalWindow(sparsity=0.0, block_size=8)
    assert bool((pattern.mask_rows(problem, 0, torch.arange(37)) == 1).all())
    assert pattern.density(problem) == 1.0
    assert pattern.reach(problem) == 1


def test_a_band_of_the_diagonal_alone_never_reaches_the_rest():
    assert LocalWindow(sparsity=0.99, block_size=8).reach(Problem.self_attention(64)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0, but must be at least 0 and below 1"),
        ({"sparsity": -0.1}, "sparsity is -0.1, but must be at least 0"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"sparsity": 0.5, "block_size": 0}, "block_size is 0, but must be a whole number of at least 1"),
        ({"sparsity": 0.5, "block_size": 64.0}, r"block_size is 64\.0.*whole"),
        ({"sparsity": 0.5, "block_size": -128}, "block_size is -128"),
    ],
)
def test_malformed_pattern_is_refused_with_value_and_limit(arguments, message):
    with pytest.raises(PatternError, match=message):
        LocalWindow(**arguments)
