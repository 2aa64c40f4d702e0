"""FlexAttention over a permuted sequence: the same function from blocks that are seen as a whole.

FlexAttention without a compiler computes by the modifiers alone, in no time at these sizes, so lists are checked apart.
"""

from dataclasses import replace

import naive
import pytest
import torch
from cases import SHAPES, Case, both_ways, over, self_attention
from contract import (
    check_constant_value,
    check_gradients,
    check_inputs_untouched,
    check_layout,
    check_locality,
    check_oracle,
    sampled,
)
from geometry import examples
from hypothesis import assume, given, settings
from test_dilated_union import nested

from autotune.strategies import flex_permuted
from autotune.strategies.catalog import STRATEGIES, build
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError, UnsupportedError
from autotune.strategies.flex_lists import BLOCK
from autotune.strategies.flex_permuted import permutation, permutation_refusal, permuted_lists
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

FLEX, CPU, MIB = STRATEGIES["flex"], torch.device("cpu"), 1 << 20
SEQUENCE, PERMUTED = (Config.of("flex", order=order, compile="default") for order in ("sequence", "permuted"))
UNION = Config.of("dilated", keys="union", query_block=0, compile="off")
NAMED = Dilated((2048, 4096, 8192), (1, 2, 4))
PATTERNS = {
    "triple": Dilated((16, 32, 96), (1, 2, 4)),
    "unsorted": Dilated((5000, 24, 72), (6, 1, 3)),
    "sparse": Dilated((32, 4096), (1, 32)),  # what `dilated` cannot unite; more offsets than heads
    "blocked": Dilated((32, 64), (1, 4), "blocked"),
}
LISTED = [
    Dilated((128, 256, 512), (1, 2, 4)),
    Dilated((256, 256, 1024), (1, 2, 8)),
    Dilated((512, 4096), (1, 4), "blocked"),
    Dilated((192, 384), (1, 3)),
    PATTERNS["triple"],
]


def permuted(problems, names=tuple(PATTERNS), mode="off"):
    config = Config.of("flex", order="permuted", compile=mode)
    return [Case("flex", name, PATTERNS[name], problem, config) for problem in problems for name in names]


def materialized(query, key, value, *, score_mod, block_mask, scale, kernel_options):
    """What FlexAttention computes, with a backward on the CPU; rows that see nothing are zero."""
    sizes = query.shape[1], query.shape[2], key.shape[2]
    batch = torch.zeros((), dtype=torch.int32)
    head, row, column = torch.meshgrid(*map(torch.arange, sizes), indexing="ij")
    seen = block_mask.mask_mod(batch, head, row, column)
    scores = score_mod(query @ key.mT * (scale or query.shape[-1] ** -0.5), batch, head, row, column)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    return (scores.softmax(-1) * seen) @ value


def listed(counts, blocks, size):
    """Which blocks the rows of a list name, shape (size, size)."""
    seen = torch.zeros(size, size, dtype=torch.bool)
    seen[torch.arange(size).repeat_interleave(torch.tensor(counts)), torch.tensor(blocks).long()] = True
    return seen


def in_blocks(seen, fill):
    """Pairs (H, L, L) of all heads as (query blocks, key blocks, all pairs of both)."""
    size = -(-seen.shape[-1] // BLOCK)
    whole = torch.full((len(seen), size * BLOCK, size * BLOCK), fill)
    whole[:, : seen.shape[1], : seen.shape[2]] = seen
    return whole.view(len(seen), size, BLOCK, size, BLOCK).permute(1, 3, 0, 2, 4).flatten(2)


@settings(examples, max_examples=60)
@given(nested())
def test_each_head_has_every_token_at_one_place(case):
    pattern, problem = case
    assume(permutation_refusal(problem, pattern) is None)
    order = permutation(problem, pattern, CPU)
    head, place = torch.arange(problem.heads)[:, None], torch.arange(len(order.order))
    tokens = order.tokens(head, place)
    assert torch.equal(tokens.sort().values, place.expand_as(tokens).int())
    assert torch.equal(order.places_of(head, tokens), place.expand_as(tokens).int())
    assert 0 <= len(place) - problem.query_len < max(pattern.dilation_rates)


@pytest.mark.parametrize("pattern", LISTED, ids=lambda pattern: pattern.label)
@pytest.mark.parametrize("length", [1009, 1536])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_listed_hold_all_that_is_seen_and_full_ones_nothing_else(length, causal, pattern):
    problem = Problem.self_attention(length, heads=3, causal=causal)
    order = permutation(problem, pattern, CPU)
    size, heads = len(order.order), torch.arange(3)[:, None]
    tokens = order.tokens(heads, torch.arange(size))
    seen = torch.zeros(3, size, size, dtype=torch.bool)
    seen[:, :length, :length] = naive.counts(pattern, problem) > 0
    seen = seen[heads[..., None], tokens[:, :, None].long(), tokens[:, None, :].long()]
    lists = permuted_lists(problem, pattern)
    blocks = -(-size // BLOCK)
    partial, full = listed(lists.partial_counts, lists.partial, blocks), listed(lists.full_counts, lists.full, blocks)
    assert not (partial & full).any()
    assert bool(((partial | full) >= in_blocks(seen, fill=False).any(-1)).all())
    rows = torch.zeros_like(seen)
    rows[:] = (tokens >= length)[..., None]  # beyond the sequence a query may see what it likes
    assert bool((full <= in_blocks(seen | rows, fill=False).all(-1)).all())
    if not causal and length % max(pattern.dilation_rates) == 0:
        assert torch.equal(partial | full, in_blocks(seen, fill=False).any(-1))


def test_the_named_pattern_visits_full_blocks_only_and_executes_what_the_union_does():
    problem = Problem.self_attention(32768)
    union = STRATEGIES["dilated"].flops(problem, NAMED, UNION)
    assert FLEX.flops(problem, NAMED, PERMUTED) == pytest.approx(union)
    assert FLEX.flops(problem, NAMED, SEQUENCE) > 2.9 * union
    assert permuted_lists(problem, NAMED).partial_counts.sum() == 0
    causal = replace(problem, causal=True)
    union = STRATEGIES["dilated"].flops(causal, NAMED, UNION)
    assert FLEX.flops(causal, NAMED, PERMUTED) < 1.16 * union
    assert FLEX.flops(causal, NAMED, SEQUENCE) > 2.9 * union


@pytest.mark.parametrize(("length", "most"), [(32768, 1.0), (131072, 1.12), (1 << 20, 1.34)])
def test_longnet_visits_little_more_than_the_union_at_any_length(length, most):
    problem, pattern = Problem.self_attention(length), Dilated.longnet(length)
    union = STRATEGIES["dilated"].flops(problem, pattern, UNION)
    assert union <= FLEX.flops(problem, pattern, PERMUTED) * 1.000001 <= most * union * 1.000002


@over(
    [
        *permuted(both_ways([self_attention(131)])),
        *permuted([self_attention(127, shape=shape) for shape in SHAPES[1:]], ["triple"]),
        *permuted([self_attention(127, dtype=dtype) for dtype in ("float16", "bfloat16")], ["triple"]),
        *permuted(both_ways([self_attention(33)]), ["triple", "sparse"]),
    ]
)
def test_output_is_the_function_of_the_pattern(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(permuted(both_ways([self_attention(127)]), ["triple", "unsorted"]))
def test_a_changed_token_changes_just_the_rows_that_see_it(case):
    check_locality(case.build(), case.problem, case.pattern, 50)
    check_constant_value(case.build(), case.problem, case.pattern)
    check_inputs_untouched(case.build(), case.problem, case.pattern)


@over(permuted([self_attention(127)], ["triple"]))
@pytest.mark.parametrize("layout", ["transposed", "every_other"])
@pytest.mark.usefixtures("nan_memory")
def test_strided_slices_of_a_nan_buffer_are_as_good_as_contiguous(case, layout):
    check_layout(case.build(), case.problem, case.pattern, layout)


@over(permuted([replace(problem, direction="training") for problem in both_ways([self_attention(127)])]))
def test_gradients_pass_through_the_permutation(case, monkeypatch):
    monkeypatch.setattr(flex_permuted, "flex_attention", materialized)
    check_oracle(case.build(), case.problem, case.pattern)
    check_gradients(case.build(), case.problem, case.pattern)


@pytest.mark.slow
@over(
    [
        *permuted(both_ways([self_attention(1009), self_attention(1024)]), ["triple", "blocked"], "default"),
        *permuted([self_attention(131, causal=True, shape=SHAPES[1])], ["unsorted", "sparse"], "default"),
        *permuted([self_attention(300, dtype="bfloat16")], ["triple"], "default"),
    ]
)
def test_compiled_output_is_the_function_of_the_pattern(case):
    attention = case.build()
    check_oracle(attention, case.problem, case.pattern, queries=sampled(case.problem, 200))
    check_layout(attention, replace(case.problem, batch=3), case.pattern, "every_other")


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "full"), [(False, 176), (True, 32)])
def test_compiled_output_of_full_blocks_is_the_function_of_the_pattern(causal, full):
    problem = Problem.self_attention(4099, heads=3, head_dim=16, causal=causal)
    pattern = Dilated((512, 1024, 2048), (1, 2, 4))
    assert permuted_lists(problem, pattern).full_counts.sum() == full
    check_oracle(FLEX.build(problem, pattern, PERMUTED), problem, pattern, queries=sampled(problem))


def test_tables_are_made_once_and_counted_with_the_copies():
    problem = Problem.self_attention(1 << 20, device="cuda", dtype="float16")
    assert permutation(problem, NAMED, CPU) is permutation(replace(problem), NAMED, CPU)
    log_sum_exp, indices = (size * problem.heads * problem.query_len for size in (4, 2 * 8))
    beside = FLEX.memory_bytes(problem, NAMED, PERMUTED) - 4 * problem.output_bytes - log_sum_exp - indices
    assert 8 * MIB < beside < 16 * MIB
    training = FLEX.memory_bytes(replace(problem, direction="training"), NAMED, PERMUTED)
    assert training > FLEX.memory_bytes(replace(problem, direction="training"), NAMED, SEQUENCE)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (Dense(), "it is not dilated"),
        (Dilated((32, 64), (1, 1)), "no rate is above 1"),
        (Dilated((500, 600), (1, 2)), "every segment holds the whole sequence"),
        (Dilated((32, 48), (1, 2)), "w=48 r=2 is not in whole steps of w=32 r=1"),
        (Dilated((20, 80), (1, 8)), "rate 8 does not divide the shortest segment, 20"),
        (Dilated((32, 64, 64), (1, 2, 4), "blocked"), "the offsets of rate 4 are not on the grids of rate 2"),
    ],
    ids=lambda value: value.label if not isinstance(value, str) else "",
)
def test_where_there_is_no_such_order_it_is_not_offered_and_refused(pattern, reason):
    problem = self_attention(500, device="cuda")
    assert permutation_refusal(problem, pattern) == reason
    named = {config.get("order", None) for config in FLEX.space(problem, pattern)}
    assert named == ({"sequence"} if isinstance(pattern, Dilated) else {None})
    for asked in (FLEX.build, FLEX.memory_bytes, FLEX.flops):
        with pytest.raises(UnsupportedError, match=reason):
            asked(problem, pattern, PERMUTED)


def test_the_tuner_has_the_choice_on_cuda_only():
    problem = Problem.self_attention(32768, device="cuda")
    space = FLEX.space(problem, NAMED)
    assert {config.string("order", "") for config in space} == {"sequence", "permuted"}
    assert space.default.string("order", "") == "sequence"
    with pytest.raises(ConfigError, match="order"):
        build(replace(problem, device="cpu"), NAMED, PERMUTED)
