"""The same contract for what compiles first (seconds each): every compiled configuration, and all of flex."""

from dataclasses import replace

import pytest
import torch
from cases import PATTERNS, SHAPES, Case, is_compiled, over, self_attention
from contract import (
    check_constant_value,
    check_gradients,
    check_inputs_untouched,
    check_layout,
    check_locality,
    check_oracle,
    sampled,
)

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.patterns import PATTERNS as KINDS
from autotune.strategies.problem import Problem

pytestmark = pytest.mark.slow


def compiled(problem, names, strategies, patterns=PATTERNS) -> list[Case]:
    """Every compiled configuration of some strategies."""
    return [
        Case(name, pattern, patterns[pattern], problem, config)
        for pattern in names
        for name in strategies
        for config in STRATEGIES[name].space(problem, patterns[pattern])
        if is_compiled(config)
    ]


def default_flex(problem, names, patterns=PATTERNS) -> list[Case]:
    """The default configuration of flex."""
    return [
        Case("flex", name, patterns[name], problem, STRATEGIES["flex"].space(problem, patterns[name]).default)
        for name in names
    ]


CAUSAL, FULL = self_attention(127, causal=True), self_attention(127)
TILED = [
    *compiled(replace(CAUSAL, direction="training"), ["dense"], ["sdpa", "ring"]),
    *compiled(replace(CAUSAL, direction="training"), ["dilated-blocked-uneven"], ["dilated", "ring"]),
    *compiled(replace(FULL, direction="training"), ["window-16", "global-random-7"], ["block_sparse"]),
]
FLEX = [
    *compiled(CAUSAL, ["dilated-uneven", "window-16"], ["flex"]),
    *default_flex(FULL, ["dense", "dilated-blocked-uneven", "dilated-repeated"]),
    *default_flex(CAUSAL, ["global-random-16", "layout-16"]),
    *default_flex(FULL, ["global-random-7", "strided-16"]),
    *default_flex(self_attention(300, causal=True, shape=SHAPES[1]), ["dense"]),
    *default_flex(self_attention(300, shape=SHAPES[2]), ["dilated-patchy", "window-7"]),
]
HALVES = [
    *default_flex(replace(CAUSAL, dtype="bfloat16"), ["dilated"]),
    *default_flex(replace(FULL, dtype="float16"), ["window-16"]),
]
LONGER = self_attention(4099, causal=True, shape=(2, 1, 16))
ACROSS = Problem(batch=2, heads=6, kv_heads=2, query_len=100, kv_len=300, head_dim=40, causal=True)
LENGTHS = [
    *default_flex(self_attention(1), ["dense", "window-16"]),
    *default_flex(self_attention(7, causal=True), ["dilated"]),
    *default_flex(self_attention(1000, causal=True), ["longnet-small"]),
    *default_flex(LONGER, ["window-128", "longnet"], PATTERNS | {"longnet": Dilated.longnet(4099)}),
    *default_flex(ACROSS, ["dense"]),
]


@pytest.fixture(autouse=True)
def _fresh_graphs():
    """Graphs of other tests neither help nor count towards the recompilation limit."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@over(TILED)
def test_compiled_configurations_compute_the_pattern_and_its_gradients(case):
    attention = case.build()
    check_oracle(attention, case.problem, case.pattern)
    check_gradients(attention, case.problem, case.pattern)


@over([case for case in TILED if case.config.string("backend", "auto") == "auto"])
def test_one_compiled_callable_serves_every_layout_and_batch(case):
    attention, problem = case.build(), replace(case.problem, direction="forward")
    check_layout(attention, problem, case.pattern, "every_other")
    check_layout(attention, replace(problem, batch=3), case.pattern, "transposed")


def test_tiles_compiled_for_many_patterns_and_lengths_do_not_exhaust_the_graphs():
    for name in ("dilated-blocked-uneven", "dilated-patchy"):
        for problem in (self_attention(127), self_attention(300, shape=SHAPES[1], causal=True)):
            for case in compiled(problem, [name], ["dilated", "ring"]):
                check_oracle(case.build(), case.problem, case.pattern)


@over(FLEX)
def test_flex_keeps_the_contract(case):
    attention = case.build()
    check_oracle(attention, case.problem, case.pattern)
    check_constant_value(attention, case.problem, case.pattern)
    check_locality(attention, case.problem, case.pattern, 50)
    check_inputs_untouched(attention, case.problem, case.pattern)


@over(HALVES)
def test_flex_computes_the_pattern_in_half_precision(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(LENGTHS)
def test_flex_computes_the_pattern_at_any_length(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem))


@over(default_flex(CAUSAL, ["dense"]))
@pytest.mark.parametrize("layout", ["transposed", "every_other"])
def test_flex_takes_strided_slices_of_a_nan_buffer(case, layout):
    check_layout(case.build(), case.problem, case.pattern, layout)


@over(default_flex(CAUSAL, ["window-16"]))
@pytest.mark.usefixtures("nan_memory")
def test_flex_reads_no_unwritten_memory_and_takes_the_callers_scale(case):
    check_oracle(case.build(), case.problem, case.pattern, scale=0.37)


def test_flex_has_a_compiled_case_for_every_kind_of_pattern():
    assert {case.pattern.kind for case in FLEX} == set(KINDS)
    assert {case.strategy for case in TILED} == set(STRATEGIES) - {"flex"}
    assert STRATEGIES["flex"].refusal(replace(FULL, direction="training"), Dense()) is not None
