from dataclasses import replace

import pytest
import torch

from autotune.inputs import make_inputs
from autotune.strategies.problem import DTYPES, Problem

CPU = torch.device("cpu")
ROWS = torch.tensor([0, 3])
PROBLEM = Problem(batch=2, heads=4, kv_heads=2, query_len=5, kv_len=7, head_dim=8)


def fields(inputs):
    return [x for x in (inputs.query, inputs.key, inputs.value, inputs.grad) if x is not None]


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtype_are_the_problems(dtype):
    problem = Problem(batch=2, heads=4, kv_heads=2, query_len=5, kv_len=7, head_dim=8, dtype=dtype)
    inputs = make_inputs(problem, CPU, ROWS)
    assert inputs.query.shape == (2, 4, 5, 8)
    assert inputs.key.shape == inputs.value.shape == (2, 2, 7, 8)
    assert {x.dtype for x in fields(inputs)} == {problem.torch_dtype}


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others():
    first, again, other = (make_inputs(PROBLEM, CPU, ROWS, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(fields(first), fields(again), strict=True))
    assert not torch.equal(first.query, other.query)


def test_the_last_channel_of_value_is_ones_and_no_other():
    value = make_inputs(PROBLEM, CPU, ROWS).value
    assert (value[..., -1] == 1).all()
    assert not (value[..., :-1] == 1).any()


def test_a_single_channel_stays_random():
    problem = Problem.self_attention(5, head_dim=1)
    assert not (make_inputs(problem, CPU, ROWS).value == 1).any()


def test_forward_inputs_carry_no_gradient():
    inputs = make_inputs(PROBLEM, CPU, ROWS)
    assert inputs.grad is None
    assert not any(x.requires_grad for x in fields(inputs))


def test_the_gradient_of_the_output_is_zero_but_for_the_checked_rows():
    problem = Problem.self_attention(5, heads=4, head_dim=8, direction="training")
    inputs = make_inputs(problem, CPU, ROWS)
    nonzero = inputs.grad.any(dim=-1)
    assert nonzero[:, :, ROWS].all()
    assert int(nonzero.sum()) == len(ROWS) * 4
    assert all(x.requires_grad for x in (inputs.query, inputs.key, inputs.value))


def test_keys_in_the_hosts_memory_are_the_same_numbers():
    there = make_inputs(replace(PROBLEM, kv_home="host"), CPU, ROWS)
    assert all(torch.equal(x, y) for x, y in zip(fields(there), fields(make_inputs(PROBLEM, CPU, ROWS)), strict=True))
