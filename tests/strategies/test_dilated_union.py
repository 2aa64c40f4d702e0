"""Dilated attention with each key once: the same function, fewer operations, and only where branches nest."""

from dataclasses import replace
from itertools import accumulate

import naive
import pytest
import torch
from cases import DTYPES, SHAPES, Case, both_ways, over, self_attention
from contract import LAYOUTS, check_gradients, check_layout, check_locality, check_oracle, draw
from geometry import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_tile_cuts import positions

from autotune.strategies.catalog import STRATEGIES, build
from autotune.strategies.config import Config
from autotune.strategies.dilated_union import nesting_refusal, union_tiles
from autotune.strategies.errors import ConfigError, UnsupportedError
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

PLAIN, UNION = (Config.of("dilated", keys=keys, query_block=0, compile="off") for keys in ("branches", "union"))
NAMED = Dilated((2048, 4096, 8192), (1, 2, 4))
PATTERNS = {
    "pair": Dilated((32, 64), (1, 2)),
    "triple": Dilated((16, 32, 96), (1, 2, 4)),
    "unsorted": Dilated((5000, 24, 72), (6, 1, 3)),
    "one-segment": Dilated((8, 8, 8, 1000), (1, 2, 4, 4)),
    "repeated": Dilated((16, 16, 48, 48), (1, 1, 4, 4)),
    "sparse": Dilated((64, 128), (1, 8)),
    "blocked": Dilated((32, 64), (1, 4), "blocked"),
}
TRAINING = [replace(problem, direction="training") for problem in both_ways([self_attention(127)])]


def united(problems, names=tuple(PATTERNS), query_block=0):
    config = Config.of("dilated", keys="union", query_block=query_block, compile="off")
    return [Case("dilated", name, PATTERNS[name], problem, config) for problem in problems for name in names]


@st.composite
def nested(draw):
    """A pattern whose segments and rates are multiples of those before, and a problem."""
    steps = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4)
    rates = list(accumulate(draw(steps), lambda rate, step: min(rate * step, 12)))
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=len(rates), max_size=len(rates)))
    segments = accumulate(factors[1:], lambda w, step: w * step, initial=rates[-1] * factors[0])
    pattern = Dilated(tuple(segments), tuple(rates), draw(st.sampled_from(["modulo", "blocked"])))
    length, heads = draw(st.integers(1, 70)), draw(st.integers(1, 6))
    return pattern, Problem.self_attention(length, heads=heads, causal=draw(st.booleans()))


def counted(tiles, problem):
    """How often each (head, query) counts each key, by tiles that hold no pair twice; fresh ones come first."""
    counts = torch.zeros(problem.heads, problem.query_len, problem.query_len, dtype=torch.int64)
    for tile in tiles:
        assert not tile.causal or tile.query.length == tile.key.length
        for rows, keys in zip(positions(tile.query), positions(tile.key), strict=True):
            block = torch.full((len(rows), len(keys)), tile.multiplicity)
            block = block.tril() if tile.causal else block
            for head in range(problem.heads)[tile.heads]:
                where = (torch.full((1, 1), head), torch.tensor(rows)[:, None], torch.tensor(keys))
                assert not (counts[where].bool() & block.bool()).any()
                assert not tile.fresh or not counts[head, rows].any()
                counts.index_put_(where, block, accumulate=True)
    return counts


@settings(examples, max_examples=60)
@given(nested())
def test_every_pair_is_in_one_tile_as_often_as_the_branches_count_it(case):
    pattern, problem = case
    assume(nesting_refusal(problem, pattern) is None)
    assert torch.equal(counted(union_tiles(problem, pattern), problem), naive.counts(pattern, problem))


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("length", [1, 7, 64, 127])
def test_where_the_first_rate_is_one_every_row_is_written_fresh_once(pattern, length):
    for problem in both_ways([self_attention(length)]):
        tiles = union_tiles(problem, pattern)
        rows = sum(tile.head_count * tile.query.repeat * tile.query.length for tile in tiles if tile.fresh)
        assert rows == problem.heads * length


@over(
    [
        *united(both_ways(self_attention(n) for n in (1, 7, 127))),
        *united(both_ways([self_attention(127)]), ["triple"], query_block=33),
        *united(
            (self_attention(127, shape=shape, dtype=dtype) for shape in SHAPES[2:] for dtype in DTYPES), ["triple"]
        ),
    ]
)
def test_output_is_the_function_of_the_pattern(case):
    check_oracle(case.build(), case.problem, case.pattern)


@over(united(both_ways([self_attention(127)]), ["triple", "unsorted"]))
def test_a_changed_token_changes_just_the_rows_that_see_it(case):
    check_locality(case.build(), case.problem, case.pattern, 50)


@over(united(TRAINING) + united([replace(TRAINING[1], dtype="bfloat16")], ["triple"]))
@pytest.mark.usefixtures("nan_memory")
def test_gradients_are_those_of_the_definition(case):
    check_oracle(case.build(), case.problem, case.pattern)
    check_gradients(case.build(), case.problem, case.pattern)


@over(united([self_attention(127, causal=True)], ["triple"]))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_slices_of_a_nan_buffer_are_as_good_as_contiguous(case, layout):
    check_layout(case.build(), case.problem, case.pattern, layout)


@pytest.mark.parametrize("problem", both_ways([Problem.self_attention(16384 + 77, heads=2, head_dim=16)]), ids=str)
def test_branches_and_union_agree_to_rounding(problem):
    inputs = draw(problem)
    plain, union = (build(problem, NAMED, config)(*inputs) for config in (PLAIN, UNION))
    torch.testing.assert_close(union, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_the_named_pattern_executes_2816_of_3584_keys_a_query(direction):
    problem = Problem.self_attention(32768, direction=direction)
    plain, union = (STRATEGIES["dilated"].flops(problem, NAMED, config) for config in (PLAIN, UNION))
    assert plain == NAMED.flops(problem)
    assert union == pytest.approx(plain * 2816 / 3584, rel=1e-12)
    causal = replace(problem, causal=True)
    assert STRATEGIES["dilated"].flops(causal, NAMED, UNION) <= NAMED.flops(causal) * 2816 / 3584


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (Dilated((32,), (1,)), "there is a single branch"),
        (Dilated((32, 48), (1, 2)), "w=48 r=2 is not in whole steps of w=32 r=1"),
        (Dilated((32, 64, 128), (1, 2, 3)), "w=128 r=3 is not in whole steps of w=64 r=2"),
        (Dilated((32, 64), (2, 1)), "w=64 r=1 is not in whole steps of w=32 r=2"),
        (Dilated((20, 80), (1, 8)), "rate 8 does not divide the shortest segment, 20"),
        (Dilated((16, 64), (1, 16)), "rate 16 is more than 8 times rate 1, and would make as many tiles"),
        (Dilated((32, 64, 64), (1, 2, 4), "blocked"), "the offsets of rate 4 are not on the grids of rate 2"),
    ],
    ids=lambda value: value.label if isinstance(value, Dilated) else "",
)
def test_where_branches_do_not_nest_the_union_is_not_offered_and_refused(pattern, reason):
    problem, strategy = self_attention(500), STRATEGIES["dilated"]
    assert nesting_refusal(problem, pattern) == reason
    assert {config.string("keys", "") for config in strategy.space(problem, pattern)} == {"branches"}
    with pytest.raises(ConfigError, match="keys is 'union', but must be one of branches"):
        build(problem, pattern, UNION)
    with pytest.raises(UnsupportedError, match=reason):
        strategy.build(problem, pattern, UNION)


@pytest.mark.parametrize("name", PATTERNS)
def test_where_branches_nest_the_tuner_has_the_choice(name):
    space = STRATEGIES["dilated"].space(self_attention(500), PATTERNS[name])
    assert {config.string("keys", "") for config in space} == {"branches", "union"}
    assert space.default.string("keys", "") == "branches"
