"""The published benchmark's rows: their names, and that each computes what its name promises."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import naive
import pytest
from contract import ROW_TOLERANCE, check_oracle, draw, row_error, sampled

from autotune.strategies.catalog import STRATEGIES, refusal
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite_extreme import EXACT, EXTREME, QUERY_BLOCK

PUBLISHED = (
    "DilatedAttention",
    "ImprovedDilatedAttention",
    "RingDilatedAttentionV2_r1",
    "RingDilatedAttentionV2_r4",
    "RingDilatedAttentionV2_r8",
    "RingDilatedAttentionV2_r16",
    "RingDilatedAttentionProduction_r1",
    "RingDilatedAttentionProduction_r8",
    "RingDilatedAttentionProduction_r16",
    "BlockSparse_LocalWindow_0.9",
    "BlockSparse_LocalWindow_0.95",
)
ROWS = {each.name: each for each in EXTREME.implementations}
PRODUCTION = [name for name in PUBLISHED if "Production" in name]
LENGTHS = tuple(4096 * 2**i for i in range(7))
WINDOWS = {name: LocalWindow(float(name.rpartition("_")[2])) for name in PUBLISHED if "LocalWindow" in name}


def served(length):
    """(implementation, problem, pattern) for every row at a length."""
    problem, patterns = Problem.self_attention(length), (Dense(), Dilated.longnet(length), *WINDOWS.values())
    return [(each, problem, pattern) for pattern in patterns for each in EXTREME.of(pattern)]


def build(name, problem, pattern):
    config = ROWS[name].config(problem, pattern)
    return STRATEGIES[config.strategy].build(problem, pattern, config)


def test_the_rows_are_the_exact_baseline_and_the_published_names_in_their_order():
    assert tuple(ROWS) == (EXACT, *PUBLISHED)
    assert len({each.definition for each in ROWS.values()}) == len(ROWS)


@pytest.mark.parametrize("length", [1, 1000, 4096, 100_000, 262_144])
def test_the_default_patterns_serve_every_row_once_and_no_configuration_is_refused(length):
    rows = served(length)
    assert sorted(each.name for each, _, _ in rows) == sorted(ROWS)
    for each, problem, pattern in rows:
        assert refusal(problem, pattern, each.config(problem, pattern)) is None


# With no more than 8 tokens there are no 16 chunks, and what two names stand for is one configuration.
@pytest.mark.parametrize("length", [9, 15, 16, 17, 31, 240, 241, 1000, *LENGTHS, 100_000, 1 << 20])
def test_a_name_stands_for_one_configuration_and_the_configuration_for_the_name(length):
    for each, problem, pattern in served(length):
        assert EXTREME.name_of(problem, pattern, each.config(problem, pattern)) == each.name


@pytest.mark.parametrize("length", [1000, 8192, 1 << 20])
def test_every_row_names_all_choices_and_so_is_the_configuration_that_a_search_tries(length):
    for each, problem, pattern in served(length):
        config = each.config(problem, pattern)
        default = STRATEGIES[config.strategy].space(problem, pattern).default
        assert config.values.keys() == default.values.keys()


@pytest.mark.parametrize("length", [241, 1000, *LENGTHS, 100_000, 100_001])
@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_r" in name])
def test_a_ring_visits_as_many_chunks_as_its_name_says(name, length):
    chunk_size = ROWS[name].config(Problem.self_attention(length), Dilated.longnet(length)).integer("chunk_size", 0)
    assert -(-length // chunk_size) == int(name.rpartition("_r")[2])


def test_a_measurement_that_is_not_of_the_suite_has_no_name():
    problem, dilated, wide = Problem.self_attention(4096), Dilated.longnet(4096), LocalWindow(0.8)
    config = ROWS["DilatedAttention"].config(problem, dilated)
    assert EXTREME.name_of(problem, Dense(), config) is None
    assert EXTREME.name_of(problem, wide, ROWS["BlockSparse_LocalWindow_0.9"].config(problem, wide)) is None
    assert EXTREME.name_of(problem, dilated, replace(config, strategy="flex")) is None


@lru_cache
def dilated_output(name, causal):
    """One row's output a few tokens past a block of queries, with every offset of LongNet's rates among the heads."""
    problem = Problem.self_attention(QUERY_BLOCK + 3, heads=4, head_dim=8, causal=causal)
    return build(name, problem, Dilated.longnet(problem.query_len))(*draw(problem))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", PUBLISHED[1:9])
def test_all_dilated_rows_agree_to_rounding(name, causal):
    expected = dilated_output("DilatedAttention", causal).double()
    assert row_error(dilated_output(name, causal), expected) < ROW_TOLERANCE["float32"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_is_the_function_of_its_name(name, causal):
    problem = Problem.self_attention(QUERY_BLOCK + 3, heads=4, head_dim=8, causal=causal)
    pattern = WINDOWS.get(name) or Dilated.longnet(problem.query_len)
    assert ROWS[name].serves(pattern)

    def attention(*inputs):
        return build(name, problem, pattern)(*inputs) if name in WINDOWS else dilated_output(name, causal)

    check_oracle(attention, problem, pattern, queries=sampled(problem))


@pytest.mark.parametrize("length", [*LENGTHS, 100_000])
@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_as_sparse_as_named_and_one_block_more_on_each_side_would_be_too_many(name, length):
    problem, window = Problem.self_attention(length), WINDOWS[name]
    share = {"0.9": 0.1, "0.95": 0.05}[name.rpartition("_")[2]]
    assert share - 2 * window.block_size / length < window.density(problem) <= share
    assert window.half_width(length) == naive.half_width(window.sparsity, window.block_size, length)


@pytest.mark.parametrize(
    ("name", "shortest"), [("BlockSparse_LocalWindow_0.9", 1280), ("BlockSparse_LocalWindow_0.95", 2560)]
)
def test_a_window_is_refused_where_its_diagonal_alone_is_denser_than_its_name(name, shortest):
    for length in (shortest, shortest + 128, 100_000):
        assert not ROWS[name].refusal(Problem.self_attention(length))
    for length in (1, 1000, shortest - 1):
        assert "the diagonal blocks alone are" in ROWS[name].refusal(Problem.self_attention(length))


def test_no_length_is_too_short_for_the_other_rows():
    assert not any(each.refusal(Problem.self_attention(1)) for name, each in ROWS.items() if name not in WINDOWS)


def test_the_two_windows_are_two_functions():
    wide, narrow = WINDOWS.values()
    assert all(wide.half_width(length) > narrow.half_width(length) for length in LENGTHS)
    problem = Problem.self_attention(4096, heads=1, head_dim=8)
    outputs = [build(name, problem, window)(*draw(problem)) for name, window in WINDOWS.items()]
    assert row_error(*(out.double() for out in outputs)) > 0.1


WORKSPACE = """
import sys
import torch
from autotune.memory import watch_memory
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite_extreme import EXTREME

torch.set_num_threads(1)
rows = {each.name: each for each in EXTREME.implementations}
for length in (65536, 131072):
    problem = Problem.self_attention(length, heads=4, head_dim=16)
    inputs = [torch.randn(1, 4, length, 16) for _ in range(3)]
    pattern = Dilated.longnet(length)
    config = rows[sys.argv[1]].config(problem, pattern)
    attend = STRATEGIES[config.strategy].build(problem, pattern, config)
    attend(*inputs)
    _, peak = watch_memory(lambda: attend(*inputs), torch.device("cpu"))
    print((peak - problem.output_bytes - 4 * problem.heads * length) / (1 << 20))
"""
OUTPUT_MIB = 16, 32


def workspace_mib(name):
    """Memory beside the output and its log-sum-exp at 65,536 and at 131,072 tokens, in a process of its own."""
    # Freed blocks go back at once: the heap's slack, a MiB or two, would pass for growth.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", WORKSPACE, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(line) for line in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident high-water marks are Linux's")
@pytest.mark.parametrize("name", PRODUCTION)
def test_the_workspace_of_a_production_row_does_not_grow_with_the_length(name):
    shorter, longer = workspace_mib(name)
    assert longer < shorter + 1.0
    assert longer < 0.25 * OUTPUT_MIB[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident high-water marks are Linux's")
def test_a_workspace_that_does_grow_is_seen_to():
    shorter, longer = workspace_mib("DilatedAttention")
    assert longer > shorter + 0.5 * (OUTPUT_MIB[1] - OUTPUT_MIB[0])
