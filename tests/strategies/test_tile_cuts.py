"""Cutting tiles changes nothing: every (head, query, key) is computed as often as before."""

from dataclasses import replace

import pytest
import torch
from geometry import examples as many
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_pairs import LENGTH, positions, triples, written

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.gathers import Gather
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.tile_cuts import MOST_REPEATS, visit_in_chunks, within_copies, within_grid, within_queries
from autotune.strategies.tiles import Span, Tile

HEADS = (slice(0, 2), slice(1, 4, 2), slice(0, 1))
examples = settings(many, max_examples=40)


def spans(length, repeat):
    return st.builds(
        Span,
        start=st.integers(0, 20),
        length=length,
        step=st.integers(1, 4),
        repeat=st.just(repeat),
        stride=st.integers(1, 12),
    )


@st.composite
def tiles(draw):
    """Overlapping and strided ones; with causality, one repeat of any shape or several squares."""
    repeat, causal = draw(st.integers(1, 4)), draw(st.booleans())
    lengths = st.integers(1, 8)
    square = st.just(draw(lengths)) if causal and repeat > 1 else lengths
    return Tile(draw(st.sampled_from(HEADS)), draw(spans(square, repeat)), draw(spans(square, repeat)), causal=causal)


@st.composite
def tile_lists(draw):
    """Tiles of which those are fresh that may be: nobody has written their rows, and they write each of them once."""
    chosen, seen = [], set()
    for tile in draw(st.lists(tiles(), min_size=1, max_size=3)):
        rows = written(tile)
        may_be_fresh = len(set(rows)) == len(rows) and seen.isdisjoint(rows)
        chosen.append(replace(tile, fresh=may_be_fresh and draw(st.booleans())))
        seen.update(rows)
    return chosen


ranges = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(sorted)
sizes = st.integers(1, LENGTH)


def in_blocks(tiles, size):
    """Block after block of queries."""
    return [piece for start in range(0, LENGTH, size) for piece in within_queries(tiles, start, start + size)]


def in_chunks(tiles, size):
    """Chunk after chunk of keys; of several tiles, none may then call its rows fresh, see `Ring.tiles`."""
    tiles = [replace(tile, fresh=tile.fresh and len(tiles) == 1) for tile in tiles]
    return list(visit_in_chunks(tiles, size))


def chunks_then_blocks(tiles, size):
    return in_blocks(in_chunks(tiles, size), size + 3)


def blocks_then_chunks(tiles, size):
    return in_chunks(in_blocks(tiles, size), size + 3)


cuts = pytest.mark.parametrize("cut", [in_blocks, in_chunks, chunks_then_blocks, blocks_then_chunks])


@examples
@given(tile_lists(), ranges)
def test_the_cut_to_some_queries_holds_all_of_their_pairs_and_no_others(given_tiles, asked):
    start, stop = asked
    wanted = {pair: count for pair, count in triples(given_tiles).items() if start <= pair[1] < stop}
    assert triples(within_queries(given_tiles, start, stop)) == wanted


@cuts
@examples
@given(tile_lists(), sizes)
def test_no_pair_is_lost_or_added_by_a_cut(cut, given_tiles, size):
    assert triples(cut(given_tiles, size)) == triples(given_tiles)


@cuts
@examples
@given(tile_lists(), sizes)
def test_fresh_is_claimed_for_rows_that_nobody_has_written_before_and_once(cut, given_tiles, size):
    seen = set()
    for piece in cut(given_tiles, size):
        rows = written(piece)
        if piece.fresh:
            assert len(set(rows)) == len(rows)
            assert seen.isdisjoint(rows)
        seen.update(rows)


@examples
@given(tile_lists(), ranges)
def test_a_row_that_was_fresh_is_fresh_still_where_only_queries_are_cut(given_tiles, asked):
    fresh = {row for tile in given_tiles if tile.fresh for row in written(tile) if asked[0] <= row[1] < asked[1]}
    assert {row for piece in within_queries(given_tiles, *asked) if piece.fresh for row in written(piece)} == fresh


@examples
@given(tiles(), st.integers(1, 20))
def test_the_rows_of_a_lone_tile_are_fresh_in_the_first_chunk_that_they_see_and_in_no_other(tile, size):
    tile = replace(tile, query=replace(tile.query, stride=tile.query.step * tile.query.length), fresh=True)
    fresh = [row for piece in in_chunks([tile], size) if piece.fresh for row in written(piece)]
    assert sorted(fresh) == sorted(written(tile))


@cuts
@examples
@given(tile_lists(), sizes)
def test_causal_pieces_are_square(cut, given_tiles, size):
    # Several squares may pass whole; one repeat is cut into a square triangle and what lies below it.
    for piece in cut(given_tiles, size):
        assert piece.query.length == piece.key.length or not piece.causal


@cuts
@examples
@given(tile_lists(), sizes)
def test_no_piece_is_empty(cut, given_tiles, size):
    for piece in cut(given_tiles, size):
        assert min(piece.query.length, piece.key.length, piece.query.repeat) > 0
        assert piece.query.repeat == piece.key.repeat


@examples
@given(st.lists(tiles(), min_size=2, max_size=3), ranges, sizes)
def test_the_order_of_tiles_is_kept_and_one_chunk_comes_before_the_next(given_tiles, asked, size):
    numbered = [replace(tile, heads=slice(number, number + 1)) for number, tile in enumerate(given_tiles)]
    order = [piece.heads.start for piece in within_queries(numbered, *asked)]
    assert order == sorted(order)
    visits = []
    for piece in in_chunks(numbered, size):
        chunks = {key // size for keys in positions(piece.key) for key in keys}
        assert len(chunks) == 1
        visits.append((chunks.pop(), piece.heads.start))
    assert visits == sorted(visits)


@pytest.mark.parametrize("repeat", [1, MOST_REPEATS, MOST_REPEATS + 1, 3 * MOST_REPEATS])
def test_no_part_has_more_repeats_than_a_grid_takes_and_all_are_there(repeat):
    tile = Tile(slice(0, 1), Span(3, 2, repeat=repeat, stride=2), Span(5, 7, repeat=repeat, stride=2), fresh=True)
    first, *others = parts = list(within_grid(tile))
    assert max(part.query.repeat for part in parts) <= MOST_REPEATS
    assert first.query.start == 3
    for before, after in zip(parts, others, strict=False):
        assert after.query.start == before.query.start + 2 * before.query.repeat
        assert after.key.start == before.key.start + 2 * before.key.repeat
    assert sum(part.query.repeat for part in parts) == repeat
    assert all(part.fresh for part in parts)


def largest_partial(strategy, length, **params):
    """Rows of the largest partial output among the calls of a plan, all heads counted; and the strategy's estimate."""
    problem, pattern = Problem.self_attention(length), Dilated.longnet(length)
    config = Config.of(strategy, compile="off", **params)
    (plan,) = STRATEGIES[strategy].build(problem, pattern, config).args
    blocks = [block.tiles for block in plan.blocks]
    rows = max(tile.head_count * tile.query.repeat * tile.query.length for block in blocks for tile in block)
    beside = problem.output_bytes + 4 * problem.heads * problem.query_len
    return rows, STRATEGIES[strategy].memory_bytes(problem, pattern, config) - beside


@pytest.mark.parametrize(("strategy", "chunks"), [("dilated", None), ("ring", 8)])
def test_with_blocks_of_queries_no_partial_result_grows_with_the_length(strategy, chunks):
    for length in (8192, 32768, 131072, 262144):
        params = {"chunk_size": length // chunks} if chunks else {}
        bounded, estimate = largest_partial(strategy, length, query_block=4096, **params)
        assert estimate >= bounded * (64 + 1) * 4  # 64 channels and the log-sum-exp in float32
        assert bounded <= 8 * 4096
        assert largest_partial(strategy, length, **params)[0] >= 8 * length // (chunks or 1)


def gather_tile(draw):
    """Rows of scattered blocks: single pieces of queries in order, any pieces of keys."""
    rows = sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=6)))
    height, width, pieces = draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 4))
    columns = [draw(st.lists(st.integers(0, 90), min_size=pieces, max_size=pieces)) for _ in rows]
    query, key = Gather(8 * torch.tensor(rows)[:, None], height), Gather(torch.tensor(columns), width)
    return Tile(draw(st.sampled_from(HEADS)), query, key, fresh=draw(st.booleans()))


gather_tiles = st.composite(gather_tile)()


@examples
@given(gather_tiles, ranges, sizes)
def test_a_gather_is_cut_by_queries_and_by_what_is_copied_without_a_loss(tile, asked, most):
    start, stop = asked
    wanted = {pair: count for pair, count in triples([tile]).items() if start <= pair[1] < stop}
    pieces = [part for cut in within_queries([tile], start, stop) for part in within_copies(cut, most)]
    assert triples(pieces) == wanted
    for piece in pieces:
        assert piece.query.repeat == piece.key.repeat > 0
        assert piece.key.repeat * piece.key.length <= max(most, piece.key.piece)
    fresh = [row for piece in pieces if piece.fresh for row in written(piece)]
    assert sorted(fresh) == sorted({(head, row) for head, row, _ in wanted} if tile.fresh else ())


@examples
@given(gather_tiles, st.integers(1, 3), st.booleans())
def test_a_gather_reads_writes_and_adds_what_a_loop_over_its_positions_does(tile, batch, grouped):
    span, generator = tile.key, torch.Generator().manual_seed(0)
    x = torch.randn(batch, 2, LENGTH, 3, generator=generator).transpose(1, 2).contiguous().transpose(1, 2)
    where = torch.tensor(positions(span))
    views = list(span.views(x))
    assert all(torch.equal(view, element[:, where].transpose(0, 1)) for view, element in zip(views, x, strict=True))
    heads = torch.tensor([0, 0, 1, 1]) if grouped else None
    for index, view in enumerate(views):
        values = torch.randn(view.shape[0], 4 if grouped else 2, *view.shape[2:], generator=generator)
        total, expected = x.clone(), x.clone()
        span.add(total, index, values, heads)
        for repeat, at in enumerate(where):
            for token, position in enumerate(at):
                for head in range(values.shape[1]):
                    expected[index, head // 2 if grouped else head, position] += values[repeat, head, token]
        torch.testing.assert_close(total, expected)
        rows = torch.tensor(positions(tile.query))
        written_rows = torch.randn(len(rows), 2, rows.shape[1], 3, generator=generator)
        tile.query.write_back(total, index, written_rows)
        assert torch.equal(total[index][:, rows].transpose(0, 1), written_rows)
