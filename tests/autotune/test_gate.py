"""The gate lets right answers through and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from autotune.gate import GATE, ROWS, Oracle, checked_rows
from autotune.inputs import make_inputs
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import DTYPES, Problem

PROBLEM = Problem.self_attention(300, heads=2, head_dim=16)
CPU = torch.device("cpu")


def posed(problem=PROBLEM):
    """Inputs and the oracle for them."""
    rows = checked_rows(problem)
    inputs = make_inputs(problem, CPU, rows)
    return inputs, Oracle.of(problem, Dense(), inputs, rows)


def answer(problem, inputs):
    """What a right candidate returns."""
    out = scaled_dot_product_attention(
        inputs.query, inputs.key, inputs.value, is_causal=problem.causal, enable_gqa=problem.group_size > 1
    )
    if inputs.grad is None:
        return (out,)
    return (out, *torch.autograd.grad(out, (inputs.query, inputs.key, inputs.value), inputs.grad))


@pytest.fixture(scope="module")
def posed_once():
    return posed()


@pytest.fixture
def right(posed_once):
    inputs, oracle = posed_once
    (out,) = answer(PROBLEM, inputs)
    return oracle, out.clone()


def test_every_dtype_has_a_gate():
    assert set(GATE) == set(DTYPES)


@pytest.mark.parametrize(("rounding", "passes"), [(2e-7, True), (5e-6, False)])
def test_a_gradient_that_vanishes_may_be_rounding_and_no_more(rounding, passes):
    """With a single key those of query and key are differences of equal numbers."""
    problem = replace(PROBLEM, direction="training", query_len=1, kv_len=1)
    inputs, oracle = posed(problem)
    out, d_query, d_key, d_value = answer(problem, inputs)
    reason = oracle.judge((out, d_query + rounding, d_key, d_value)).reason
    assert (reason == "") == passes
    assert passes or "query gradient" in reason


@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [{}, {"causal": True}, {"kv_heads": 1}, {"kv_len": 500}, {"head_dim": 8}, {"query_len": 1, "kv_len": 1}],
    ids=str,
)
def test_right_answers_pass(shape, dtype, direction):
    problem = replace(PROBLEM, **{"dtype": dtype, "direction": direction} | shape)
    inputs, oracle = posed(problem)
    verdict = oracle.judge(answer(problem, inputs))
    assert verdict.reason == ""
    assert verdict.rel_error <= GATE[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [1, 2])
def test_right_answers_of_very_small_heads_pass(head_dim, dtype):
    problem = replace(PROBLEM, head_dim=head_dim, dtype=dtype)
    inputs, oracle = posed(problem)
    assert oracle.judge(answer(problem, inputs)).reason == ""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_long_averages_in_half_precision_pass(dtype):
    problem = Problem.self_attention(8192, heads=1, head_dim=64, dtype=dtype)
    inputs, oracle = posed(problem)
    assert oracle.judge(answer(problem, inputs)).reason == ""


def test_error_figures_are_those_of_the_worst_row(right):
    oracle, out = right
    row = int(oracle.rows[7])
    out[0, 1, row, :-1] *= 1.25
    verdict = oracle.judge((out,))
    assert verdict.rel_error == pytest.approx(0.25, rel=1e-4)
    assert verdict.max_abs_error == pytest.approx(float(0.2 * out[0, 1, row, :-1].abs().max()), rel=1e-3)
    assert "output: relative error 0.25 is over the gate, 5e-05" in verdict.reason


def test_zeros_are_wrong(right):
    oracle, out = right
    assert oracle.judge((torch.zeros_like(out),)).reason == "output is all zeros"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("row", [0, 117, 299])
def test_one_value_that_is_not_a_number_is_wrong_wherever_it_is(right, row, value):
    oracle, out = right
    out[0, 1, row, 3] = value
    verdict = oracle.judge((out,))
    assert "NaN or infinity in 0.01% of its values" in verdict.reason
    assert verdict.rel_error == float("inf")


def unchecked_row(oracle):
    return next(row for row in range(PROBLEM.query_len) if row not in oracle.rows.tolist())


def test_the_rows_compared_are_few_and_hold_both_ends():
    rows = checked_rows(PROBLEM).tolist()
    assert len(rows) == len(set(rows)) == ROWS < PROBLEM.query_len
    assert {0, 299} <= set(rows)


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("what", ["zeros", "half of the keys", "twice the keys"])
def test_one_wrong_row_between_the_compared_ones_is_seen(right, head, what):
    oracle, out = right
    row = unchecked_row(oracle)
    out[0, head, row] *= {"zeros": 0.0, "half of the keys": 0.5, "twice the keys": 2.0}[what]
    verdict = oracle.judge((out,))
    assert verdict.reason == "softmax weights do not sum to one in 0.17% of the rows"


@pytest.mark.parametrize("at", [0, -1, ROWS // 2])
def test_one_wrong_key_in_one_compared_row_is_seen(posed_once, right, at):
    inputs, _ = posed_once
    oracle, out = right
    row = int(oracle.rows[at])
    without = torch.ones(PROBLEM.kv_len, dtype=torch.bool)
    without[5] = False
    out[:, :, row] = scaled_dot_product_attention(
        inputs.query[:, :, row : row + 1], inputs.key, inputs.value, attn_mask=without[None]
    )[:, :, 0]
    assert "relative error" in oracle.judge((out,)).reason


@pytest.mark.parametrize("change", ["heads swapped", "rows shifted", "causal"])
def test_another_function_is_wrong(posed_once, right, change):
    inputs, _ = posed_once
    oracle, out = right
    other = {
        "heads swapped": lambda: out.flip(1),
        "rows shifted": lambda: out.roll(1, dims=2),
        "causal": lambda: scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, is_causal=True),
    }[change]()
    assert "relative error" in oracle.judge((other,)).reason


@pytest.mark.parametrize(
    "wrong",
    [
        lambda out: out.double(),
        lambda out: out.half(),
        lambda out: out[:, :1],
        lambda out: out[..., :-1],
        lambda out: out[:, :, :150],
        lambda out: out.transpose(1, 2),
        lambda out: out[0],
    ],
    ids=["float64", "float16", "one head", "one channel less", "half the rows", "transposed", "no batch"],
)
def test_another_dtype_or_shape_is_wrong(right, wrong):
    oracle, out = right
    verdict = oracle.judge((wrong(out),))
    assert verdict.reason.startswith("output is torch.")
    assert "expected (1, 2, 300, 16)" in verdict.reason


@pytest.fixture(scope="module")
def trained():
    problem = replace(PROBLEM, direction="training", kv_heads=1)
    inputs, oracle = posed(problem)
    return oracle, answer(problem, inputs)


@pytest.mark.parametrize(("number", "name"), [(1, "query gradient"), (2, "key gradient"), (3, "value gradient")])
@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0, 1.001, float("nan")])
def test_one_wrong_gradient_is_named(trained, number, name, factor):
    oracle, outputs = trained
    spoiled = [x.detach().clone() for x in outputs]
    spoiled[number] *= factor
    assert oracle.judge(tuple(spoiled)).reason.startswith(f"{name}: relative error")


def test_one_wrong_row_of_a_gradient_is_seen(trained):
    oracle, outputs = trained
    spoiled = [x.detach().clone() for x in outputs]
    spoiled[2][0, 0, 123] += 1.0
    assert oracle.judge(tuple(spoiled)).reason.startswith("key gradient")


def test_a_missing_gradient_cannot_pass(trained):
    oracle, outputs = trained
    with pytest.raises(ValueError, match="zip"):
        oracle.judge(outputs[:-1])
