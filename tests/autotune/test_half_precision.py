"""Partial softmaxes in half precision are merged without adding to the error, however many there are."""

import pytest
import torch

from autotune.gate import GATE, Oracle
from autotune.inputs import make_inputs
from autotune.strategies.catalog import build
from autotune.strategies.config import Config
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

LENGTH = 262_144
PATTERN = Dilated((256, LENGTH), (1, 64))  # every 64th query sees keys in all chunks of a ring
CHUNKS = (1, 64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("direction", ["forward", "training"])
def test_the_error_stays_within_the_gate_and_does_not_grow_with_the_chunks_of_a_ring(dtype, direction):
    problem = Problem.self_attention(LENGTH, heads=2, head_dim=16, dtype=dtype, direction=direction)
    rows = torch.arange(0, LENGTH, LENGTH // 16)
    rows = torch.cat([rows, rows + 1])  # those of each head that are on the wide grid
    inputs = make_inputs(problem, torch.device("cpu"), rows)
    oracle = Oracle.of(problem, PATTERN, inputs, rows)
    errors = {}
    for chunks in CHUNKS:
        attention = build(problem, PATTERN, Config.of("ring", chunk_size=LENGTH // chunks, compile="off"))
        out = attention(inputs.query, inputs.key, inputs.value)
        leaves = (inputs.query, inputs.key, inputs.value)
        gradients = () if inputs.grad is None else torch.autograd.grad(out, leaves, inputs.grad)
        verdict = oracle.judge((out, *gradients))
        assert verdict.reason == ""
        errors[chunks] = verdict.rel_error
    assert max(errors.values()) <= GATE[dtype]
    assert errors[64] <= 1.05 * errors[1], errors
