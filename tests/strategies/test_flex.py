"""What FlexAttention visits and keeps: the blocks of the mask, and tables no wider than its kernels ask for."""

import pytest
import torch

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.flex import block_mask
from autotune.strategies.flex_lists import BLOCK, block_counts
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Problem

CPU, MIB = torch.device("cpu"), 1 << 20
FLEX, CONFIG = STRATEGIES["flex"], Config.of("flex", compile="default")
PATTERNS = [Dense(), LocalWindow(0.5), LocalWindow(0.7, block_size=48), Strided(2, 3, block_size=64)]
PATTERNS += [Dilated((256,), (2,)), Dilated((256, 1024), (1, 4)), Dilated((1000,), (1,))]


def tables(mask):
    """The block numbers that a mask holds for the forward pass."""
    return mask.kv_indices, mask.full_kv_indices


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label)
def test_the_blocks_counted_are_those_of_the_mask(pattern, causal):
    problem = Problem.self_attention(1000, heads=2, causal=causal)
    mask = block_mask(problem, pattern, CPU)
    for counted, listed in zip(
        block_counts(problem, pattern), (mask.kv_num_blocks, mask.full_kv_num_blocks), strict=True
    ):
        assert counted.tolist() == listed[0, 0].tolist()


@pytest.mark.parametrize("pattern", [LocalWindow(0.95), Strided(182, 182)], ids=lambda pattern: pattern.label)
def test_tables_of_a_million_tokens_at_95_percent_take_at_most_16_mib_where_no_row_is_long(pattern):
    problem = Problem.self_attention(1 << 20, device="cuda", dtype="float16")
    mask = block_mask(problem, pattern, CPU)
    size = sum(table.numel() * table.element_size() for table in tables(mask))
    assert size <= 16 * MIB
    beside = problem.output_bytes + 4 * problem.heads * problem.query_len
    assert FLEX.memory_bytes(problem, pattern, CONFIG) == beside + size


def test_the_cpu_takes_one_table_of_all_blocks():
    problem = Problem.self_attention(8192)
    partial, full = tables(block_mask(problem, LocalWindow(0.9), CPU))
    assert partial.shape[-1] == 8192 // BLOCK > full.shape[-1]


@pytest.mark.parametrize(
    ("pattern", "times"),
    [(Dense(), 1.0), (LocalWindow(0.9), 1.0), (Dilated((1024,), (1,)), 1.0), (Dilated((8192, 8192), (1, 8)), 64 / 65)],
    ids=lambda each: getattr(each, "label", each),
)
def test_what_is_visited_is_computed_whether_it_is_needed_or_not(pattern, times):
    problem = Problem.self_attention(8192)
    assert FLEX.flops(problem, pattern, CONFIG) == pytest.approx(times * pattern.flops(problem))


def test_a_sparse_grid_costs_as_much_as_all_of_its_segments():
    problem, pattern = Problem.self_attention(8192, heads=4), Dilated((1024, 8192), (1, 4))
    assert FLEX.flops(problem, pattern, CONFIG) == pytest.approx(Dense().flops(problem))
    assert Dense().flops(problem) > 4 * pattern.flops(problem)
