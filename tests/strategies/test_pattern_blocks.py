"""Global, window and random blocks, strides and the caller's own mask: by hand, refusals, and what metadata cost."""

import time
import tracemalloc

import naive
import numpy as np
import pytest
import torch
from geometry import big_birds, examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import Problem

MILLION = 1 << 20
AT_95_PERCENT = [
    LocalWindow(0.95),
    GlobalWindowRandom(82, 123, 123),  # 2 : 3 : 3, as in BigBird's base model
    Strided(182, 182),
    Strided(23, 23),  # as dense, but nearly all of its 2.9 million runs are single blocks
]


def mask_of(pattern, seq_len):
    """The blocks that each block sees."""
    blocks = pattern.blocks(seq_len)
    mask = torch.zeros(blocks, blocks, dtype=torch.bool)
    for i in range(blocks):
        for start, stop in pattern.runs(seq_len, i):
            mask[i, start:stop] = True
    return mask


def test_strided_by_hand():
    expected = [
        [1, 1, 0, 1, 0, 0, 1],
        [1, 1, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 1, 0],
        [1, 0, 1, 1, 1, 0, 1],
        [0, 1, 0, 1, 1, 1, 0],
        [0, 0, 1, 0, 1, 1, 1],
        [1, 0, 0, 1, 0, 1, 1],
    ]
    assert mask_of(Strided(2, 3, block_size=4), 25).int().tolist() == expected


def test_global_rows_and_columns_by_hand():
    expected = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 0, 0, 1, 1]]
    assert mask_of(GlobalWindowRandom(1, 3, 0, block_size=8), 40).int().tolist() == expected


@given(big_birds, st.integers(1, 60))
@examples
def test_random_blocks_are_as_many_as_asked_for_or_all_there_are(pattern, seq_len):
    mask = mask_of(pattern, seq_len)
    known = mask_of(GlobalWindowRandom(pattern.global_blocks, pattern.window_blocks, 0, 0, pattern.block_size), seq_len)
    free = (~known).sum(1)
    assert bool(mask[known].all())
    assert torch.equal((mask & ~known).sum(1), free.clamp(max=pattern.random_blocks))


def test_random_blocks_are_drawn_evenly_and_differ_by_row_and_seed():
    masks = torch.stack([mask_of(GlobalWindowRandom(0, 1, 4, seed, 1), 61) for seed in range(200)]).double()
    often = masks.mean(0)[~torch.eye(61, dtype=torch.bool)]
    assert float(often.mean()) == pytest.approx(4 / 60)
    assert float((often - 4 / 60).abs().max()) < 5 * (4 / 60 / 200) ** 0.5
    assert len({tuple(map(tuple, mask.tolist())) for mask in masks}) == 200
    assert len({tuple(np.roll(row, -i)) for i, row in enumerate(masks[0].tolist())}) > 50


def test_the_seed_means_the_same_blocks_for_ever():
    pattern = GlobalWindowRandom(1, 3, 2, seed=7, block_size=1)
    assert [naive.splitmix64(1234567, n) for n in range(2)] == [6457827717110365317, 3203168211198807973]
    assert pattern.runs(12, 5) == ((0, 2), (4, 7), (11, 12))  # block 0, the window, and 1 and 11 drawn


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_a_mask_comes_back_as_it_was_given(kind):
    mask = [[True, False, False], [True, True, False], [False, False, True]]
    pattern = BlockLayout.from_mask(kind(mask), block_size=16)
    assert mask_of(pattern, 40).tolist() == mask
    assert pattern == BlockLayout.from_pairs([(2, 2), (1, 0), (0, 0), (1, 1), (1, 1)], 3, 16)
    assert pattern_from_key(pattern.key).runs(48, 1) == ((0, 2),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlobalWindowRandom(0, 2, 1), "window_blocks is 2, but must be odd"),
        (lambda: GlobalWindowRandom(-1, 3, 1), "global_blocks is -1, but must be a whole number of at least 0"),
        (lambda: GlobalWindowRandom(0, 3, 1, seed=1 << 64), "seed is 18446744073709551616, but must be below"),
        (lambda: Strided(0, 4), "local_blocks is 0, but must be a whole number of at least 1"),
        (lambda: Strided(1, 4.0), r"stride_blocks is 4\.0"),
        (lambda: BlockLayout.from_mask([[True, True]]), r"shape \(1, 2\), but must be \(blocks, blocks\)"),
        (lambda: BlockLayout.from_mask(torch.eye(4).tril(-1)), "query block 0 sees no key block"),
        (lambda: BlockLayout.from_pairs([(0, 4)], 2), "block 4, but must be from 0 to 1"),
        (lambda: BlockLayout.from_pairs([], 2), "query block 0 sees no key block"),
        (lambda: BlockLayout(2, "no base64!"), "runs_base64 is 'no base64!', but must be base64"),
        (lambda: BlockLayout(2, "AAAA"), "runs_base64"),
        (lambda: BlockLayout(1, BlockLayout.from_mask(torch.eye(2)).runs_base64), "no list of runs for 1 rows"),
    ],
)
def test_malformed_patterns_are_refused_with_value_and_limit(make, message):
    with pytest.raises(PatternError, match=message):
        make()


def test_a_mask_is_for_its_own_number_of_blocks():
    pattern = BlockLayout.from_mask(torch.eye(4), block_size=16)
    for length in (49, 64):
        pattern.validate(Problem.self_attention(length))
    for length in (48, 65):
        with pytest.raises(PatternError, match=rf"kv_len is {length}, .* from 49 to 64; make one for this length"):
            pattern.validate(Problem.self_attention(length))


def test_a_mask_that_the_causal_cut_leaves_without_a_key_is_refused():
    pattern = BlockLayout.from_mask(torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0]]), block_size=16)
    pattern.validate(Problem.self_attention(48))
    with pytest.raises(PatternError, match="query block 1 sees only key blocks after itself"):
        pattern.validate(Problem.self_attention(48, causal=True))


def test_global_blocks_bring_every_token_within_two_layers():
    problem = Problem.self_attention(MILLION)
    assert GlobalWindowRandom(1, 3, 3).reach(problem) == 2
    assert GlobalWindowRandom(8192, 1, 0).reach(problem) == 1
    assert Strided(1, 4, block_size=4096).reach(problem) is None


@pytest.mark.parametrize("pattern", AT_95_PERCENT, ids=lambda pattern: pattern.label)
def test_metadata_of_a_million_tokens_take_at_most_16_mib_and_no_time(pattern):
    assert 0.0485 <= pattern.density(Problem.self_attention(MILLION, heads=1)) <= 0.05
    best = min(timed(pattern) for _ in range(3))
    tracemalloc.start()
    layout = pattern.find_runs(MILLION)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert layout.nbytes <= peak <= 16 << 20
    assert best <= 0.2  # 50 ms on a machine that does nothing else


def timed(pattern):
    """Seconds of this thread that the metadata of a million tokens take."""
    begin = time.thread_time()
    pattern.find_runs(MILLION)
    return time.thread_time() - begin


def test_looking_up_pairs_takes_memory_for_the_runs_and_not_for_blocks_by_blocks():
    pattern, problem = GlobalWindowRandom(2, 3, 3, block_size=16), Problem.self_attention(MILLION, heads=1)
    layout, tokens = pattern.layout(MILLION), torch.tensor([0, 1, 16, 524_288, MILLION - 1])
    tracemalloc.start()
    seen = pattern.multiplicity(problem, torch.tensor(0), tokens[:, None], tokens)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 * layout.nbytes
    rows = layout.seen((tokens // 16).numpy())
    assert seen.tolist() == torch.from_numpy(rows)[:, tokens // 16].int().tolist()
