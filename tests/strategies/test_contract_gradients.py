"""Every strategy that claims training gives the gradients of the definition, to whoever asks for them."""

from dataclasses import replace

import pytest
import torch
from cases import DTYPES, FEW, SHAPES, both_ways, expand, over, self_attention
from contract import LAYOUTS, check_gradients, check_oracle, draw

from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem


def training(problems) -> list[Problem]:
    return [replace(problem, direction="training") for problem in problems]


SHORT = training(
    both_ways(
        self_attention(n, shape=shape, dtype=dtype)
        for n, dtype, shape in [
            *((n, "float32", SHAPES[0]) for n in (1, 7, 127)),
            *((n, "bfloat16", SHAPES[2]) for n in (7, 127)),
            (127, "float16", SHAPES[1]),
        ]
    )
)
MEDIUM = training(both_ways([self_attention(127)]))
CAUSAL = training([self_attention(127, causal=True)])
HALVES = training([self_attention(127, shape=SHAPES[3], dtype=dtype, causal=True) for dtype in DTYPES[1:]])
LONG = training(both_ways([self_attention(1000)]))
CROSS = training(
    both_ways(
        Problem(batch=2, heads=6, kv_heads=2, query_len=rows, kv_len=columns, head_dim=40)
        for rows, columns in [(7, 127), (127, 7), (1, 127), (127, 1)]
    )
)


@over(expand(SHORT))
def test_gradients_are_those_of_the_definition(case):
    check_gradients(case.build(), case.problem, case.pattern)


@pytest.mark.slow
@over(expand(LONG, FEW))
def test_gradients_at_a_thousand_tokens(case):
    check_gradients(case.build(), case.problem, case.pattern)


@over(expand(CROSS, {"dense": Dense()}))
def test_gradients_of_cross_attention(case):
    check_gradients(case.build(), case.problem, case.pattern)


@over(expand(CAUSAL, FEW))
@pytest.mark.parametrize(
    "wanted",
    [(True, False, False), (False, True, False), (False, False, True), (False, True, True)],
    ids=["q", "k", "v", "kv"],
)
def test_only_the_gradients_that_are_wanted_are_made(case, wanted):
    check_gradients(case.build(), case.problem, case.pattern, wanted=wanted)


@over(expand(MEDIUM, FEW))
def test_gradients_with_the_callers_scale(case):
    check_gradients(case.build(), case.problem, case.pattern, scale=0.37)


@over(expand(CAUSAL, FEW))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_through_strided_slices_of_a_nan_buffer(case, layout):
    # Of an expanded view the gradient is asked for at the view, where it is full-sized.
    problem = replace(case.problem, batch=1) if layout == "expanded" else case.problem
    check_gradients(case.build(), problem, case.pattern, layout=LAYOUTS[layout])


@over(expand(MEDIUM, FEW))
def test_gradients_of_a_sum(case):
    check_gradients(case.build(), case.problem, case.pattern, expanded_grad=True)


@over(expand([*MEDIUM, *HALVES], FEW))
@pytest.mark.usefixtures("nan_memory")
def test_gradients_read_no_unwritten_memory(case):
    check_gradients(case.build(), case.problem, case.pattern)


@over(expand(CAUSAL, FEW))
def test_training_computes_the_same_output(case):
    check_oracle(case.build(), case.problem, case.pattern)
    inputs = [x.requires_grad_() for x in draw(case.problem)]
    out = case.build()(*inputs)
    assert out.requires_grad
    with torch.no_grad():
        assert not case.build()(*inputs).requires_grad


@over(expand(CAUSAL, FEW))
def test_gradients_add_up_over_two_calls(case):
    attention = case.build()
    once, twice = draw(case.problem), draw(case.problem)
    for inputs, calls in ((once, 1), (twice, 2)):
        for x in inputs:
            x.requires_grad_()
        for _ in range(calls):
            attention(*inputs).square().sum().backward()
    for x, y in zip(once, twice, strict=True):
        torch.testing.assert_close(2 * x.grad, y.grad)
