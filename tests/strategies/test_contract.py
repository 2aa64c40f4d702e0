"""Every strategy computes every pattern it claims, at every length, dtype and head layout."""

from dataclasses import replace

import pytest
import torch
from cases import DTYPES, FEW, PATTERNS, SHAPES, both_ways, expand, is_compiled, over, self_attention
from contract import (
    LAYOUTS,
    check_constant_value,
    check_inputs_untouched,
    check_layout,
    check_locality,
    check_oracle,
    draw,
    sampled,
)

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

SHORT = both_ways(
    self_attention(n, shape=shape, dtype=dtype)
    for n in (1, 7, 127)
    for dtype, shapes in {"float32": SHAPES, "bfloat16": SHAPES[:1], "float16": SHAPES[1:2]}.items()
    for shape in shapes
)
THOUSAND = both_ways(self_attention(1000, dtype=dtype) for dtype in DTYPES)
ONE = both_ways([self_attention(1)])
MEDIUM = both_ways([self_attention(127)])
MIXED = [self_attention(127, causal=True), self_attention(127, shape=SHAPES[2], dtype="bfloat16")]
LONG = both_ways(self_attention(4099, dtype=dtype) for dtype in DTYPES)
LONGNETS = {
    "longnet": Dilated.longnet(4099),
    "longnet-blocked": Dilated.longnet(4099, offsets="blocked"),
}
LONG_QUICK = {
    name: PATTERNS[name] for name in ("dense", "dilated-blocked-uneven", "window-16", "window-128")
} | LONGNETS
LONG_REST = {name: pattern for name, pattern in PATTERNS.items() if name not in LONG_QUICK}
CROSS = both_ways(
    Problem(batch=2, heads=6, kv_heads=2, query_len=rows, kv_len=columns, head_dim=40)
    for rows, columns in [(7, 127), (127, 7), (1, 127), (127, 1), (100, 127)]
)

# Who must serve what on a CPU: a strategy that declined everything would pass the rest of this suite.
SERVES = {
    "dense": {"sdpa", "ring", "flex"},
    "dilated": {"dilated", "ring", "flex"},
    "local_window": {"block_sparse", "flex"},
    "global_window_random": {"block_sparse", "flex"},
    "strided": {"block_sparse", "flex"},
    "block_layout": {"block_sparse", "flex"},
}


@pytest.mark.parametrize("problem", [*SHORT, *THOUSAND[:2], *LONG[:2]], ids=lambda problem: problem.key)
def test_every_pattern_is_served_by_the_strategies_made_for_it(problem):
    training = replace(problem, direction="training")
    for pattern in PATTERNS.values():
        served = {name for name, strategy in STRATEGIES.items() if strategy.refusal(problem, pattern) is None}
        assert served == SERVES[pattern.kind]
        served = {name for name, strategy in STRATEGIES.items() if strategy.refusal(training, pattern) is None}
        assert served == SERVES[pattern.kind] - {"flex"}


@over(expand(SHORT))
def test_output_is_the_function_of_the_pattern(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(expand(THOUSAND))
def test_output_at_a_thousand_tokens(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem, 64))


@over(expand(LONG[:2], LONG_QUICK))
def test_output_at_four_thousand_tokens(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem))


@pytest.mark.slow
@over([*expand(LONG[:2], LONG_REST), *expand(LONG[2:], LONG_QUICK)])
def test_output_at_four_thousand_tokens_in_every_pattern_and_dtype(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem))


@over(expand(CROSS, {"dense": Dense()}))
def test_cross_attention_is_aligned_at_the_top_left(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(expand(MEDIUM, FEW))
@pytest.mark.parametrize("scale", [0.37, 1.0])
def test_scale_is_the_callers(case, scale):
    check_oracle(case.build(), case.problem, case.pattern, scale=scale)


@over(expand(MEDIUM, FEW))
@pytest.mark.parametrize("scale", [0.0, -0.2])
def test_scale_of_zero_or_less_is_exact_or_refused_but_never_nan(case, scale):
    try:
        check_oracle(case.build(), case.problem, case.pattern, scale=scale)
    except AutotuneError as refusal:
        assert f"scale is {scale}" in str(refusal)  # noqa: PT017 - both outcomes are right


@over(expand(MIXED, FEW))
def test_scores_too_large_for_exp_neither_overflow_nor_blur(case):
    q, k, v = draw(case.problem)
    # Scores reach some 250: rounding them in float32 alone moves a weight by 250 * 2**-23 = 3e-5.
    factor = 6.0 if case.problem.dtype == "float32" else 1.0
    check_oracle(case.build(), case.problem, case.pattern, inputs=(q * 60, k, v), factor=factor)


@over(expand([*ONE, *MIXED, *THOUSAND[:1]], FEW))
def test_constant_values_come_out_as_they_are(case):
    check_constant_value(case.build(), case.problem, case.pattern)


@over(expand([*MEDIUM, self_attention(127, shape=SHAPES[3], dtype="float16", causal=True)]))
@pytest.mark.parametrize("token", [0, 50, 126])
def test_a_changed_token_changes_just_the_rows_that_see_it(case, token):
    check_locality(case.build(), case.problem, case.pattern, token)


@over(expand(MIXED, FEW))
def test_inputs_are_not_modified(case):
    check_inputs_untouched(case.build(), case.problem, case.pattern)


@over(expand(MIXED, FEW))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_slices_of_a_nan_buffer_are_as_good_as_contiguous(case, layout):
    check_layout(case.build(), case.problem, case.pattern, layout)


@over(expand([*ONE, *MEDIUM, *MIXED]))
@pytest.mark.usefixtures("nan_memory")
def test_no_unwritten_memory_is_read(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(expand(MIXED, FEW))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_built_callable_takes_any_batch(case, batch):
    attention = case.build()
    check_oracle(attention, replace(case.problem, batch=batch), case.pattern)


@over(expand(MIXED, FEW))
def test_inference_mode_gives_the_same_numbers_twice(case):
    attention, inputs = case.build(), draw(case.problem)
    with torch.inference_mode():
        assert torch.equal(attention(*inputs), attention(*inputs))


def test_uncompiled_cases_cover_every_strategy_but_flex():
    assert {case.strategy for case in expand(SHORT)} == set(STRATEGIES) - {"flex"}
    problem = self_attention(127)
    assert all(is_compiled(config) for config in STRATEGIES["flex"].space(problem, Dense()))
