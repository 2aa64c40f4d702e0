"""What is held while tiles run: no more at a time than is needed."""

import weakref

import pytest
import torch
from contract import draw

from autotune.strategies.catalog import STRATEGIES, build
from autotune.strategies.config import Config
from autotune.strategies.flash_buffers import forward_buffers
from autotune.strategies.lanes import scratch_bytes
from autotune.strategies.native import compiler
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem


def test_half_precision_holds_the_sums_of_one_block_at_a_time(monkeypatch):
    problem = Problem.self_attention(96, heads=2, head_dim=8, dtype="bfloat16")
    attention = build(problem, Dilated((32,), (1,)), Config.of("dilated", query_block=32, compile="off"))
    allocate, sums, alive = torch.empty_like, [], []

    def watched(like, **options):
        alive.append(sum(ref() is not None for ref in sums))
        tensor = allocate(like, **options)
        sums.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(torch, "empty_like", watched)
    attention(*draw(problem))
    assert alive == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "sums"), [("float64", 0), ("float32", 0), ("bfloat16", 4)])
def test_the_estimate_counts_results_and_sums_in_what_they_are_kept_in(dtype, sums):
    shorter, longer = (Problem.self_attention(length, heads=1, head_dim=64, dtype=dtype) for length in (8192, 8448))
    item = longer.torch_dtype.itemsize
    dilated, config = STRATEGIES["dilated"], Config.of("dilated", query_block=256, compile="off")
    pattern = Dilated((256,), (1,))
    grown = dilated.memory_bytes(longer, pattern, config) - dilated.memory_bytes(shorter, pattern, config)
    assert grown == 256 * (64 * item + max(4, item))  # of output and log-sum-exp
    beside = dilated.memory_bytes(longer, pattern, config) - longer.output_bytes - 8448 * max(4, item)
    call = 256 * (64 * item + max(4, item)) + forward_buffers(longer, 256, 256)
    assert beside == call + 256 * 64 * sums


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize(
    ("lengths", "causal", "query_block", "sums"),
    [((32,), False, 0, 0), ((32, 96), False, 0, 1), ((96,), True, 0, 0), ((96,), True, 32, 2), ((96,), False, 32, 0)],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_needs_no_sums_beside_it_where_nothing_is_merged(
    monkeypatch, dtype, lengths, causal, query_block, sums
):
    problem = Problem.self_attention(96, heads=2, head_dim=8, dtype=dtype, causal=causal)
    pattern = Dilated(lengths, (1,) * len(lengths))
    config = Config.of("dilated", kernel="lanes", query_block=query_block)
    attention, operands = build(problem, pattern, config), draw(problem)
    allocate, found = torch.empty_like, []
    monkeypatch.setattr(torch, "empty_like", lambda *like, **options: found.append(like) or allocate(*like, **options))
    attention(*operands)
    assert len(found) == sums  # of a block each
    beside = STRATEGIES["dilated"].memory_bytes(problem, pattern, config) - problem.output_bytes - 2 * 96 * 4
    assert beside == scratch_bytes() + (2 * (query_block or 96) * 8 * 4 if sums else 0)
