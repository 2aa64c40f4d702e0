"""From a sparsity to a pattern: by the rule, never denser than permitted, and as dense as the rule allows."""

import naive
import pytest
from geometry import examples, sparsities
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import Problem

MAKERS = [GlobalWindowRandom.of_sparsity, Strided.of_sparsity]
LENGTHS = st.integers(1, 200)
BLOCKS = st.integers(1, 24)


def density(pattern, seq_len):
    return pattern.density(Problem.self_attention(seq_len, heads=1))


def shared_out(t):
    """The rule of the docstring, in its own words."""
    odd = [width for width in range(1, max(1, t // 2) + 1) if width % 2]
    return t // 3, odd[-1], t // 2


def most_pairs(t, seq_len, block_size):
    """Token pairs if no random block was the short last one."""
    known, window, drawn = shared_out(t)
    pattern, blocks = GlobalWindowRandom(known, window, 0, 0, block_size), -(-seq_len // block_size)
    tokens = [min((block + 1) * block_size, seq_len) - block * block_size for block in range(blocks)]
    total = 0
    for row in range(blocks):
        seen = sum(tokens[block] for block in naive.seen_blocks(pattern, blocks, row))
        total += tokens[row] * min(seq_len, seen + drawn * block_size)
    return total


@examples
@given(sparsities, LENGTHS, BLOCKS)
def test_no_pattern_is_denser_than_its_sparsity_permits_unless_it_is_the_diagonal(sparsity, seq_len, block_size):
    diagonal = density(Strided(1, seq_len, block_size), seq_len)
    for make in MAKERS:
        found = density(make(sparsity, seq_len, block_size=block_size), seq_len)
        assert found <= (1 - sparsity) * (1 + 1e-9) or found == diagonal


@examples
@given(sparsities, LENGTHS, BLOCKS)
def test_one_more_local_block_would_be_too_many(sparsity, seq_len, block_size):
    found = Strided.of_sparsity(sparsity, seq_len, block_size=block_size)
    assert found.stride_blocks >= 2 / (1 - sparsity) - 1e-6 > found.stride_blocks - 1 - 1e-6
    if density(found, seq_len) < 1:
        wider = Strided(found.local_blocks + 1, found.stride_blocks, block_size)
        assert density(wider, seq_len) > (1 - sparsity) * (1 + 1e-12) or density(wider, seq_len) == density(
            found, seq_len
        )


@examples
@given(sparsities, LENGTHS, BLOCKS)
def test_global_window_and_random_blocks_are_shared_out_by_the_largest_number_that_fits(sparsity, seq_len, block_size):
    found = GlobalWindowRandom.of_sparsity(sparsity, seq_len, seed=3, block_size=block_size)
    permitted = (1 - sparsity) * seq_len**2 * (1 + 1e-12)
    counts, last = (found.global_blocks, found.window_blocks, found.random_blocks), 2 * -(-seq_len // block_size)
    largest = max(t for t in range(last + 1) if shared_out(t) == counts)
    assert most_pairs(largest, seq_len, block_size) <= permitted or counts == (0, 1, 0)
    assert largest == last or most_pairs(largest + 1, seq_len, block_size) > permitted
    assert (found.seed, found.block_size) == (3, block_size)


@pytest.mark.parametrize("make", MAKERS)
def test_sparsity_zero_is_dense_attention(make):
    for seq_len in (1, 128, 129, 1000):
        assert density(make(0.0, seq_len), seq_len) == 1.0


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("sparsity", [0.9, 0.95])
def test_what_is_permitted_is_used_where_there_are_blocks_enough(make, sparsity):
    assert 0.98 * (1 - sparsity) < density(make(sparsity, 1 << 18), 1 << 18) <= 1 - sparsity


@pytest.mark.parametrize("make", [*MAKERS, lambda sparsity, seq_len: LocalWindow(sparsity)])
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_what_is_no_sparsity_is_refused_with_value_and_limit(make, sparsity):
    with pytest.raises(PatternError, match=rf"sparsity is {sparsity}, but must be at least 0 and below 1"):
        make(sparsity, 4096)


@pytest.mark.parametrize("make", MAKERS)
def test_the_parameters_are_what_is_stored(make):
    pattern = make(0.9, 32768)
    assert pattern_from_key(pattern.key) == pattern


def test_by_hand():
    assert Strided.of_sparsity(0.9, 8192) == Strided(2, 20)
    assert GlobalWindowRandom.of_sparsity(0.95, 1 << 20) == GlobalWindowRandom(83, 123, 124)
    assert GlobalWindowRandom.of_sparsity(0.99, 4096) == GlobalWindowRandom(0, 1, 0)
