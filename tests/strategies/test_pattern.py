"""What every pattern says of itself, against brute force over all (head, query, key)."""

import naive
import pytest
import torch
from geometry import cases, examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import Problem

SELF_ATTENTION_ONLY = [Dilated((4,), (1,)), LocalWindow(sparsity=0.5, block_size=4)]


@given(cases())
@examples
def test_multiplicity_counts_each_key_as_often_as_defined_before_the_causal_cut(case):
    pattern, problem = case
    heads, positions = torch.arange(problem.heads), torch.arange(problem.query_len)
    count = pattern.multiplicity(problem, heads[:, None, None], positions[:, None], positions)
    assert torch.equal(count.long(), naive.counts(pattern, problem, causal=False))


@given(cases(), st.data())
@examples
def test_mask_rows_are_the_rows_of_the_definition_after_the_causal_cut(case, data):
    pattern, problem = case
    head = data.draw(st.integers(0, problem.heads - 1))
    queries = data.draw(st.lists(st.integers(0, problem.query_len - 1), min_size=1, max_size=5))
    rows = pattern.mask_rows(problem, head, torch.tensor(queries))
    assert not rows.is_floating_point()
    assert torch.equal(rows.long(), naive.counts(pattern, problem)[head, queries])


@given(cases())
@examples
def test_pairs_density_and_keys_per_query_are_counts_over_all_heads(case):
    pattern, problem = case
    pairs = int(naive.counts(pattern, problem).sum())
    assert pattern.pairs(problem) == pairs
    assert pattern.keys_per_query(problem) == pytest.approx(pairs / problem.heads / problem.query_len)
    assert pattern.density(problem) == pytest.approx(pairs / problem.heads / problem.query_len / problem.kv_len)


@given(cases())
@examples
def test_coverage_is_full_where_every_query_of_every_head_has_a_key(case):
    pattern, problem = case
    pattern.validate(problem)
    assert bool(naive.counts(pattern, problem).any(-1).all())
    assert pattern.coverage(problem) == 1.0


@given(cases())
@examples
def test_reach_is_the_smallest_power_of_the_heads_united_that_is_full(case):
    pattern, problem = case
    sees = naive.counts(pattern, problem, causal=False).any(0)
    assert pattern.reach(problem) == naive.reach(sees)


@given(cases(), st.data())
@examples
def test_extent_holds_every_key_and_common_is_seen_once_by_every_query(case, data):
    pattern, problem = case
    start = data.draw(st.integers(0, problem.query_len - 1))
    stop = data.draw(st.integers(start + 1, problem.query_len))
    seen = naive.counts(pattern, problem, causal=False)[:, start:stop]
    first, last = pattern.extent(problem, start, stop)
    assert 0 <= first < last <= problem.kv_len
    assert not seen[..., :first].any()
    assert not seen[..., last:].any()
    low, high = pattern.common(problem, start, stop)
    assert low >= 0
    assert high <= problem.kv_len
    assert bool((seen[..., low : max(low, high)] == 1).all())


@given(cases())
@examples
def test_training_costs_three_and_a_half_times_two_matrix_products(case):
    pattern, problem = case
    forward = 4 * int(naive.counts(pattern, problem).sum()) * problem.head_dim
    assert pattern.flops(problem) == pytest.approx(forward)
    training = Problem.self_attention(
        problem.query_len, heads=problem.heads, batch=3, causal=problem.causal, direction="training"
    )
    assert pattern.flops(training) == pytest.approx(3.5 * 3 * forward)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("query_len", "kv_len"), [(5, 9), (9, 5), (1, 6), (6, 1)])
def test_dense_cross_attention_is_cut_along_the_top_left_diagonal(query_len, kv_len, causal):
    problem = Problem(heads=2, kv_heads=1, query_len=query_len, kv_len=kv_len, causal=causal)
    expected = torch.tensor([[int(j <= i or not causal) for j in range(kv_len)] for i in range(query_len)])
    assert torch.equal(naive.counts(Dense(), problem)[1], expected)
    assert torch.equal(Dense().mask_rows(problem, 1, torch.arange(query_len)).long(), expected)
    assert Dense().pairs(problem) == 2 * int(expected.sum())
    Dense().validate(problem)


@pytest.mark.parametrize("pattern", SELF_ATTENTION_ONLY, ids=lambda pattern: pattern.kind)
def test_cross_attention_is_refused_with_both_lengths_and_a_remedy(pattern):
    with pytest.raises(PatternError, match=r"query_len 8 and kv_len 12.*equal; use Dense\(\)"):
        pattern.validate(Problem(query_len=8, kv_len=12))


@given(cases())
@examples
def test_key_round_trips_and_labels_are_one_line(case):
    pattern, _ = case
    again = pattern_from_key(pattern.key)
    assert again == pattern
    assert again.key == pattern.key
    assert hash(again) == hash(pattern)
    assert pattern.label
    assert "\n" not in pattern.label


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LocalWindow(sparsity=0), LocalWindow(sparsity=0.0)),
        (Dilated([4, 8], [1, 2]), Dilated((4, 8), (1, 2))),
    ],
    ids=["zero", "lists"],
)
def test_equal_patterns_have_equal_keys(one, other):
    assert one == other
    assert one.key == other.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Dilated((4,), (1,)), Dilated((4,), (1,), "blocked")),
        (Dilated((4, 8), (1, 2)), Dilated((8, 4), (1, 2))),
        (LocalWindow(sparsity=0.5), LocalWindow(sparsity=0.25)),
        (LocalWindow(sparsity=0.5, block_size=64), LocalWindow(sparsity=0.5, block_size=128)),
        (Dense(), LocalWindow(sparsity=0.0)),
    ],
    ids=["offsets", "order", "sparsity", "block", "kind"],
)
def test_different_patterns_have_different_keys_and_labels(one, other):
    assert one != other
    assert one.key != other.key
    assert one.label != other.label


@pytest.mark.parametrize(
    "text",
    [
        *("", "dense", "{}", "3", "[]", "null", '"dense"', '{"kind":"hexagonal"}', '{"kind":["dense"]}'),
        *('{"kind":"dense","width":3}', '{"kind":"dilated"}', '{"kind":"local_window"}'),
    ],
)
def test_text_that_is_no_pattern_is_refused_with_the_known_ones(text):
    with pytest.raises(PatternError, match=r"dense, dilated, local_window, global.*, strided, block_layout") as caught:
        pattern_from_key(text)
    assert repr(text) in str(caught.value)


def test_stored_pattern_with_a_bad_value_is_refused_with_value_and_limit():
    with pytest.raises(PatternError, match=r"sparsity is 1\.5, but must be at least 0 and below 1"):
        pattern_from_key('{"kind":"local_window","sparsity":1.5}')
