"""The tiles of block masks, whatever their height: every pair of the mask once, no other."""

from collections import Counter

import naive
import pytest
from geometry import big_birds, block_layouts, local_windows, strided
from geometry import examples as many
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_pairs import triples, written

from autotune.strategies.block_tiles import block_tiles
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.problem import Problem

examples = settings(many, max_examples=60)


@st.composite
def cases(draw):
    """A block pattern, a problem long enough for windows that overlap, and the height of tiles."""
    problem = Problem.self_attention(draw(st.integers(1, 99)), heads=1, causal=draw(st.booleans()))
    pattern = draw(st.one_of(local_windows, big_birds, strided, block_layouts(problem)))
    return problem, pattern, draw(st.integers(0, 99))


@examples
@given(cases())
def test_every_pair_of_the_mask_is_computed_once_and_no_other(case):
    problem, pattern, query_tile = case
    seen = Counter((0, i, j) for i, j in naive.counts(pattern, problem)[0].nonzero().tolist())
    assert triples(block_tiles(problem, pattern, query_tile)) == seen


@examples
@given(cases())
def test_what_a_fresh_tile_writes_nobody_has_written_before(case):
    problem, pattern, query_tile = case
    seen = set()
    for tile in block_tiles(problem, pattern, query_tile):
        rows = written(tile)
        assert not tile.fresh or (len(set(rows)) == len(rows) and seen.isdisjoint(rows))
        seen.update(rows)


@pytest.mark.parametrize(("query_tile", "heights"), [(0, {128}), (256, {128, 256}), (1024, {128, 1024})])
def test_the_bulk_of_a_wide_window_is_computed_by_tall_tiles(query_tile, heights):
    problem, window = Problem.self_attention(65536, heads=1), LocalWindow(0.9)
    tiles = list(block_tiles(problem, window, query_tile))
    in_step = [tile for tile in tiles if tile.query.repeat > 1]
    assert {tile.query.length for tile in in_step} == heights
    tall = sum(tile.pairs for tile in in_step if tile.query.length == max(heights))
    assert tall > 0.75 * window.pairs(problem)
    assert sum(tile.pairs for tile in tiles) == window.pairs(problem)
