"""Schedules: nothing is lost between blocks of queries, and a million tokens are planned in no time."""

import time
import tracemalloc
from dataclasses import replace

import pytest
from geometry import examples as many
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tile_cuts import tile_lists
from tile_pairs import LENGTH, triples, written

from autotune.strategies import tile_schedule, tile_strategy
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Problem
from autotune.strategies.tile_schedule import Cuts, TileSchedule

examples = settings(many, max_examples=60)
sizes = st.integers(1, LENGTH)
MILLION, MIB = 1 << 20, 1 << 20
LONG = Dilated((2048, 4096, 8192), (1, 2, 4))
PLANNED = [  # by their finest tiles
    ("ring", Dense(), {"chunk_size": 1024}),
    ("ring", LONG, {"chunk_size": 1024}),
    ("ring", Dilated.longnet(MILLION), {"chunk_size": 1024}),
    ("dilated", LONG, {"keys": "union"}),
    ("dilated", Dilated.longnet(MILLION), {"keys": "union"}),
    ("block_sparse", LocalWindow(0.95), {"query_tile": 0}),
    ("block_sparse", GlobalWindowRandom(82, 123, 123), {"query_tile": 1024}),
    ("block_sparse", Strided(182, 182), {"query_tile": 1024}),
]


def scheduled(tiles, queries, keys):
    """The blocks of a schedule, looked at twice: what was kept is what was cut."""
    schedule = TileSchedule(tiles, LENGTH, Cuts(queries, keys, LENGTH))
    blocks = list(schedule)
    assert [triples(block.tiles) for block in schedule] == [triples(block.tiles) for block in blocks]
    return blocks


@examples
@given(tile_lists(), sizes, sizes | st.just(0), st.integers(0, 20))
def test_every_pair_is_in_the_block_of_its_query_however_many_tiles_are_kept(given_tiles, queries, keys, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_schedule, "KEPT_TILES", kept)
        blocks = scheduled(given_tiles, queries, keys)
    assert [block.start for block in blocks] == list(range(0, LENGTH, queries))
    assert triples(tile for block in blocks for tile in block.tiles) == triples(given_tiles)
    for block in blocks:
        rows = {row for tile in block.tiles for _, row in written(tile)}
        assert all(block.start <= row < block.stop for row in rows)


@examples
@given(tile_lists(), sizes, sizes | st.just(0))
def test_fresh_rows_are_written_once_and_first(given_tiles, queries, keys):
    if keys:
        given_tiles = [replace(tile, fresh=tile.fresh and len(given_tiles) == 1) for tile in given_tiles]
    for block in scheduled(given_tiles, queries, keys):
        seen, fresh = set(), []
        for tile in block.tiles:
            rows = written(tile)
            fresh += rows if tile.fresh else []
            assert not tile.fresh or seen.isdisjoint(rows)
            seen.update(rows)
        assert len(fresh) == len(set(fresh)) == block.fresh_rows


@pytest.mark.parametrize(("strategy", "pattern", "params"), PLANNED)
def test_a_million_tokens_are_planned_in_less_than_a_second_and_within_128_mib(strategy, pattern, params):
    problem = Problem.self_attention(MILLION)
    config = Config.of(strategy, compile="off", query_block=4096, **params)
    pattern.pairs(problem)  # works out the block metadata
    assert next(iter(plan(problem, pattern, config).blocks)).stop == 4096  # imports what is imported late
    begin = time.thread_time()
    plan(problem, pattern, config)
    assert time.thread_time() - begin < 1.0
    tracemalloc.start()
    plan(problem, pattern, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * MIB


def plan(problem, pattern, config):
    """What a configuration is bound to."""
    return STRATEGIES[config.strategy].build(problem, pattern, config).args[0]


@pytest.mark.parametrize(("strategy", "pattern", "params"), PLANNED)
def test_a_million_tokens_are_estimated_in_all_configurations_within_seconds(strategy, pattern, params):
    tile_strategy._sizes.cache_clear()
    problem, known = Problem.self_attention(MILLION), STRATEGIES[strategy]
    space = list(known.space(problem, pattern))
    pattern.pairs(problem)
    begin = time.thread_time()
    for config in space:
        assert known.memory_bytes(problem, pattern, config) > problem.output_bytes
        assert known.flops(problem, pattern, config) <= 1.001 * pattern.flops(problem)
    assert time.thread_time() - begin < 3.0
