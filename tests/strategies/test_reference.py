"""The product's float64 oracle against the naive one, which shares no code with it."""

import naive
import pytest
import torch
from cases import DTYPES, PATTERNS, SHAPES, both_ways, fits, self_attention
from contract import draw, row_error, sampled
from geometry import cases, examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem
from autotune.strategies.reference import reference_rows, sample_rows

GROUPED = both_ways(
    self_attention(127, shape=shape, dtype=dtype) for shape, dtype in zip(SHAPES, [*DTYPES, "float64"], strict=True)
)


def assert_exact(problem, pattern, rows, *, scale=None):
    q, k, v = draw(problem)
    out = reference_rows(problem, pattern, q, k, v, torch.tensor(rows), scale=scale)
    expected = naive.attention(q[:, :, rows], k, v, naive.counts(pattern, problem, rows), scale)
    assert out.dtype == torch.float64
    assert out.shape == expected.shape
    assert row_error(out, expected) <= 1e-12


@given(cases(), st.data())
@examples
def test_any_rows_of_any_small_pattern_agree_with_the_definition(case, data):
    pattern, problem = case
    rows = data.draw(st.lists(st.integers(0, problem.query_len - 1), min_size=1, max_size=6))
    assert_exact(problem, pattern, rows, scale=data.draw(st.sampled_from([None, 0.3, 2.0, 0.0, -1.0])))


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("problem", GROUPED, ids=lambda problem: problem.key)
def test_grouped_heads_and_low_precision_inputs_agree_with_the_definition(name, problem):
    assert_exact(problem, PATTERNS[name], sampled(problem))


@pytest.mark.parametrize("name", [name for name, each in PATTERNS.items() if fits(each, self_attention(4099))])
def test_rows_of_a_long_sequence_agree_with_the_definition(name):
    problem = self_attention(4099, causal=True, shape=(4, 2, 16))
    assert_exact(problem, PATTERNS[name], sampled(problem))


def test_more_rows_than_are_scored_at_once_agree_with_the_definition(monkeypatch):
    monkeypatch.setattr("autotune.strategies.reference.SCORES_AT_ONCE", 500)  # three rows of 127 keys at once
    for name in ("dense", "dilated", "window-16"):
        assert_exact(self_attention(127, causal=True), PATTERNS[name], list(range(127)))


@pytest.mark.parametrize(("query_len", "kv_len"), [(7, 100), (100, 7)])
@pytest.mark.parametrize("causal", [False, True])
def test_cross_attention_agrees_with_the_definition(query_len, kv_len, causal):
    problem = Problem(batch=2, heads=4, kv_heads=2, query_len=query_len, kv_len=kv_len, head_dim=16, causal=causal)
    assert_exact(problem, Dense(), list(range(query_len)))


def test_scores_beyond_the_range_of_exp_agree_with_the_definition():
    problem = self_attention(127, causal=True)
    q, k, v = draw(problem)
    out = reference_rows(problem, Dense(), q * 1e4, k, v, torch.arange(127))
    assert row_error(out, naive.attention(q * 1e4, k, v, naive.counts(Dense(), problem))) <= 1e-11


@pytest.mark.parametrize("name", ["dense", "dilated-blocked-uneven", "window-16"])
def test_gradients_agree_with_those_of_the_definition(name):
    problem, pattern = self_attention(60, causal=True), PATTERNS[name]
    gradients = []
    for attend in (
        lambda q, k, v: reference_rows(problem, pattern, q, k, v, torch.arange(60)),
        lambda q, k, v: naive.attention(q, k, v, naive.counts(pattern, problem)),
    ):
        leaves = [x.double().requires_grad_() for x in draw(problem)]
        attend(*leaves).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(st.integers(1, 3000), st.integers(4, 200), st.integers(0, 3))
@examples
def test_sampled_rows_are_distinct_sorted_and_hold_both_ends(query_len, count, seed):
    rows = sample_rows(query_len, count, seed=seed).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(count, query_len)
    assert rows[0] == 0
    assert rows[-1] == query_len - 1
    assert rows == sample_rows(query_len, count, seed=seed).tolist()


def test_sampled_rows_differ_by_seed():
    assert sample_rows(10_000, 64, seed=1).tolist() != sample_rows(10_000, 64, seed=2).tolist()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_sampled_rows_are_still_rows(count):
    rows = sample_rows(1000, count).tolist()
    assert len(rows) == len(set(rows)) == count
    assert all(0 <= row < 1000 for row in rows)
