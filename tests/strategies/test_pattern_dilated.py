"""Dilated patterns: published worked examples by hand, the LongNet schedule, coverage, refusals."""

import naive
import pytest
import torch
from geometry import dilated, examples, problems
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem


def seen(pattern, seq_len, head, query, *, heads=4):
    """Keys that a query counts, each as often as it does."""
    problem = Problem.self_attention(seq_len, heads=heads)
    row = pattern.mask_rows(problem, head, torch.tensor([query]))[0]
    assert row.tolist() == naive.row(pattern, problem, head, query).tolist()
    return [j for j, count in enumerate(row.tolist()) for _ in range(count)]


@pytest.mark.parametrize(
    ("pattern", "seq_len", "head", "query", "keys"),
    [
        # Two branches: own segment of four, and every second position of the eight. Head 0 has offset 0.
        (Dilated((4, 8), (1, 2)), 8, 0, 2, [0, 0, 1, 2, 2, 3, 4, 6]),
        (Dilated((4, 8), (1, 2)), 8, 0, 3, [0, 1, 2, 3]),
        (Dilated((4, 8), (1, 2)), 8, 1, 3, [0, 1, 1, 2, 3, 3, 5, 7]),
        # Blocked offsets: four heads at rate 2 are {0, 1} at offset 0 and {2, 3} at offset 1.
        (Dilated((4, 8), (1, 2), "blocked"), 8, 1, 2, [0, 0, 1, 2, 2, 3, 4, 6]),
        (Dilated((4, 8), (1, 2), "blocked"), 8, 2, 3, [0, 1, 1, 2, 3, 3, 5, 7]),
        # r does not divide w: the grid starts anew in every segment (0, 3 | 5, 8).
        (Dilated((1, 5), (1, 3)), 10, 0, 5, [5, 5, 8]),
        (Dilated((1, 5), (1, 3)), 10, 0, 6, [6]),
        # w does not divide N: the tail is just shorter.
        (Dilated((4,), (1,)), 6, 0, 5, [4, 5]),
        # w beyond N is one segment.
        (Dilated((100,), (1,)), 3, 0, 1, [0, 1, 2]),
        # r beyond w: a grid of one position, or of none where the offset lies outside the segment.
        (Dilated((1, 2), (1, 5)), 4, 1, 3, [3, 3]),
        (Dilated((1, 2), (1, 5)), 4, 3, 3, [3]),
    ],
)
def test_worked_examples(pattern, seq_len, head, query, keys):
    assert seen(pattern, seq_len, head, query) == keys


@pytest.mark.parametrize(
    ("offsets", "rate", "heads", "expected"),
    [
        ("modulo", 4, 6, [0, 1, 2, 3, 0, 1]),
        ("blocked", 4, 6, [0, 0, 1, 1, 2, 2]),
        ("modulo", 3, 6, [0, 1, 2, 0, 1, 2]),
        ("blocked", 3, 6, [0, 0, 1, 1, 2, 2]),
        ("modulo", 8, 3, [0, 1, 2]),
        ("blocked", 8, 3, [0, 1, 2]),
        ("blocked", 2, 5, [0, 0, 0, 1, 1]),
    ],
)
def test_offset_of_each_head_follows_the_rule(offsets, rate, heads, expected):
    pattern = Dilated((1, 64), (1, rate), offsets)
    for head, offset in enumerate(expected):
        assert len(seen(pattern, 64, head, offset, heads=heads)) == 1 + len(range(offset, 64, rate))


@pytest.mark.parametrize(
    ("seq_len", "segment_lengths", "dilation_rates"),
    [
        (1, (1,), (1,)),
        (1000, (1000,), (1,)),
        (2048, (2048,), (1,)),
        (2049, (2048, 2049), (1, 4)),
        (8192, (2048, 8192), (1, 4)),
        (10_000, (2048, 8192, 10_000), (1, 4, 16)),
        (32_768, (2048, 8192, 32_768), (1, 4, 16)),
        (1 << 20, (2048, 8192, 32_768, 131_072, 524_288, 1 << 20), (1, 4, 16, 64, 256, 1024)),
    ],
)
def test_longnet_is_the_geometric_schedule_that_ends_at_the_length(seq_len, segment_lengths, dilation_rates):
    assert Dilated.longnet(seq_len) == Dilated(segment_lengths, dilation_rates)
    assert Dilated.longnet(seq_len, offsets="blocked") == Dilated(segment_lengths, dilation_rates, "blocked")


@pytest.mark.parametrize("offsets", ["modulo", "blocked"])
@pytest.mark.parametrize("seq_len", [1, 2048, 2049, 8192, 10_000, 100_000])
def test_longnet_lets_every_token_reach_every_other(seq_len, offsets):
    problem = Problem.self_attention(seq_len, heads=8)
    pattern = Dilated.longnet(seq_len, offsets=offsets)
    pattern.validate(problem)
    layers = pattern.reach(problem)
    assert layers is not None
    # A hop within the segment of 2048, one within each longer one, and the same way down again.
    assert layers <= 2 * len(pattern.segment_lengths) - 1


@pytest.mark.parametrize("seq_len", [9, 12])
def test_segments_that_never_overlap_are_never_bridged(seq_len):
    assert Dilated((4,), (1,)).reach(Problem.self_attention(seq_len)) is None


@given(dilated(with_rate_one=False), problems())
@examples
def test_coverage_counts_rows_with_a_key_and_the_rest_is_refused(pattern, problem):
    covered = naive.counts(pattern, problem).any(-1).double().mean().item()
    assert pattern.coverage(problem) == pytest.approx(covered)
    if covered == 1.0:
        pattern.validate(problem)
    else:
        with pytest.raises(PatternError, match=r"must leave none; add a branch of dilation rate 1"):
            pattern.validate(problem)


def test_pattern_without_rate_one_is_accepted_where_it_covers_every_query():
    Dilated((1,), (2,)).validate(Problem.self_attention(8, heads=1))


def test_one_uncovered_row_among_thousands_is_refused_and_not_rounded_away():
    # Without rate 1, position 1 has a key only in segments of one token; these branches reach all up to 2310 but it.
    branches = [(2, 2), (3, 2), (5, 2), (5, 3), (7, 2), (7, 3), (7, 5), (11, 2), (11, 3), (11, 5), (11, 7)]
    pattern, problem = Dilated(*zip(*branches, strict=True)), Problem.self_attention(2300, heads=1)
    assert pattern.coverage(problem) == pytest.approx(1 - 1 / 2300)
    with pytest.raises(PatternError, match="leaves 1 of 2300"):
        pattern.validate(problem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "segment_lengths has 0 entries and dilation_rates 0.*equally many and at least one"),
        (((4, 8), (1,)), "segment_lengths has 2 entries and dilation_rates 1.*equally many"),
        (((4, 0), (1, 2)), "segment_lengths holds 0.*at least 1"),
        (((4, 8), (1, -2)), "dilation_rates holds -2.*at least 1"),
        (((4.5,), (1,)), r"segment_lengths holds 4\.5.*whole"),
        (((4, 8), (1, 2.0)), r"dilation_rates holds 2\.0.*whole"),
        (((4,), (1,), "random"), "offsets is 'random'.*'modulo' or 'blocked'"),
    ],
)
def test_malformed_pattern_is_refused_with_value_and_limit(arguments, message):
    with pytest.raises(PatternError, match=message):
        Dilated(*arguments)


@given(dilated(), problems(), st.integers(1, 3))
@examples
def test_a_branch_given_again_counts_its_keys_again(pattern, problem, repeats):
    repeated = Dilated(pattern.segment_lengths * repeats, pattern.dilation_rates * repeats, pattern.offsets)
    once = pattern.mask_rows(problem, 0, torch.arange(problem.query_len))
    assert torch.equal(repeated.mask_rows(problem, 0, torch.arange(problem.query_len)), once * repeats)
