"""What running tiles holds beside the inputs: the sizes of the tensors that `tile_attention` has at one time."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.strategies.flash_buffers import backward_buffers, forward_buffers
from autotune.strategies.gathers import Gather
from autotune.strategies.lanes import scratch_bytes
from autotune.strategies.problem import Problem
from autotune.strategies.tile_schedule import Cuts
from autotune.strategies.tiles import Span, Tile


@dataclass(frozen=True, slots=True)
class TileSize:
    """All of a tile that the memory of its calls depends on, which is not where it lies.

    ``piece``: of what its key gathers, 0 where its key is a view; ``gathers_queries``: whether its query gathers.
    """

    heads: int
    query: Span
    key: Span
    piece: int
    gathers_queries: bool
    causal: bool
    fresh: bool

    @classmethod
    def of(cls, tile: Tile) -> "TileSize":
        """That of one tile."""
        query, key = (_from_zero(span) for span in (tile.query, tile.key))
        piece = tile.key.piece if isinstance(tile.key, Gather) else 0
        return cls(tile.head_count, query, key, piece, isinstance(tile.query, Gather), tile.causal, tile.fresh)


@dataclass(frozen=True, slots=True)
class TileSizes:
    """What there is to know of all tiles without keeping them: (head, query, key) triples, and the sizes there are."""

    pairs: int
    distinct: frozenset[TileSize]

    @classmethod
    def of(cls, tiles: Iterable[Tile]) -> "TileSizes":
        """Those of some tiles, each of which is looked at once."""
        pairs, distinct = 0, set[TileSize]()
        for tile in tiles:
            pairs += tile.head_count * tile.pairs
            distinct.add(TileSize.of(tile))
        return cls(pairs, frozenset(distinct))


def _from_zero(span: Span | Gather) -> Span:
    if isinstance(span, Gather):
        return Span(0, span.length, repeat=span.repeat, stride=span.length)
    return span.shifted(-span.start)


def tile_bytes(problem: Problem, sizes: TileSizes, cuts: Cuts, *, copies: bool, folds: bool) -> int:
    """Peak of a call.

    Args:
        problem: what is computed.
        sizes: of all tiles.
        cuts: where they are cut.
        copies: whether rows that lie apart are brought together before a kernel reads them.
        folds: whether the kernel merges its results where they belong, instead of returning them.
    """
    calls = {_largest_call(size, problem, cuts, copies) for size in sizes.distinct}
    rows, item, wide = problem.batch * problem.heads * problem.query_len, problem.torch_dtype.itemsize, _wide(problem)
    results = problem.output_bytes + rows * wide
    alone = folds and not any(call.merged_rows for call in calls)  # rows that are rounded at once
    sums = 0 if alone or item == wide else problem.batch * problem.heads * cuts.queries * problem.head_dim * wide
    forward = results + sums + max(call.forward_bytes(problem, folds=folds) for call in calls)
    if not problem.training:
        return forward
    gradients = problem.output_bytes + problem.kv_bytes
    rounded = 0 if item == wide else gradients
    summing = gradients // item * wide + max(rounded, *(call.backward_bytes(problem, folds=folds) for call in calls))
    return max(forward, results + summing)


@dataclass(frozen=True, slots=True)
class Call:
    """The largest kernel call that a tile comes to."""

    together: int  # batch elements where there is one repeat, else repeats
    heads: int
    rows: int
    keys: int
    copied_heads: int  # of keys; 0 where keys are views
    copies_queries: bool
    copies_sums: bool  # the running sums of these rows, which are then written back
    merged_rows: int  # of the largest call that is no row's first
    held: int  # sets of copies: the loop over batch elements lets go of them late

    def forward_bytes(self, problem: Problem, *, folds: bool) -> int:
        """Copies of operands, and either one that is made on the way, or results with what comes beside them."""
        rows, query_bytes = self.together * self.heads * self.rows, self._query_bytes(problem)
        item, wide = problem.torch_dtype.itemsize, _wide(problem)
        copies = self._key_copies(problem) + (query_bytes if self.copies_queries else 0)
        copies += rows * (problem.head_dim + 1) * wide if self.copies_sums else 0
        if folds:
            return self.held * copies + max(self._spreading(problem), scratch_bytes())
        buffers = forward_buffers(problem, self.rows, self.keys)
        widened = 0 if item == wide else problem.head_dim * wide
        merging = self.together * self.heads * self.merged_rows * (problem.head_dim * item + widened + 3 * wide)
        return self.held * copies + max(self._spreading(problem), query_bytes + rows * wide + buffers, merging)

    def backward_bytes(self, problem: Problem, *, folds: bool) -> int:
        """Copies of operands, and either one that is made on the way, or gradients with what comes beside them."""
        query_bytes, key_bytes = self._query_bytes(problem), self._key_bytes(problem, self.heads)
        # The gradient of the output, the query, the output and its log-sum-exp.
        lse_bytes = self.together * self.heads * self.rows * _wide(problem)
        copies = 3 * query_bytes + lse_bytes if self.copies_queries else 0
        item, wide = problem.torch_dtype.itemsize, _wide(problem)
        adding = self._key_bytes(problem, self.copied_heads, wide) if problem.group_size > 1 else 0
        if folds and problem.group_size == 1 and not self.copied_heads and not self.copies_queries:
            results = scratch_bytes()  # they are written where they belong
        elif folds:
            results = (query_bytes + 2 * key_bytes) // item * wide + max(scratch_bytes(), adding)
        else:
            # The kernel lays the gradient of the output out anew.
            kernel = query_bytes + backward_buffers(problem, self.rows, self.keys)
            if item != wide:
                adding += max(query_bytes, key_bytes) // item * wide
            results = query_bytes + 2 * key_bytes + max(kernel, adding)
        return self.held * (copies + self._key_copies(problem)) + max(self._spreading(problem), results)

    def _query_bytes(self, problem: Problem) -> int:
        return self.together * self.heads * self.rows * problem.head_dim * problem.torch_dtype.itemsize

    def _key_bytes(self, problem: Problem, heads: int, item: int | None = None) -> int:
        return self.together * heads * self.keys * problem.head_dim * (item or problem.torch_dtype.itemsize)

    def _key_copies(self, problem: Problem) -> int:
        """Keys and values that are brought together, and those that are spread over the query heads."""
        return 2 * self._key_bytes(problem, self.copied_heads + (self.heads if problem.group_size > 1 else 0))

    def _spreading(self, problem: Problem) -> int:
        """Strided keys are copied before they are spread over the query heads."""
        return 0 if self.copied_heads or problem.group_size == 1 else self._key_bytes(problem, problem.kv_heads)


def _wide(problem: Problem) -> int:
    """Bytes of a number that results are summed up in, and of a log-sum-exp."""
    return max(4, problem.torch_dtype.itemsize)


def _largest_call(tile: TileSize, problem: Problem, cuts: Cuts, copies: bool) -> Call:
    repeat, rows = most_within(tile.query, cuts.queries)
    cut = tile.causal and cuts.queries < problem.query_len  # maybe, to what lies before a triangle, and the triangle
    keys, copied_heads = tile.key.length, 0
    if copies and tile.key.step > 1 and problem.group_size == 1:
        copied_heads = tile.heads
    if cuts.keys:
        some, keys = most_within(tile.key, cuts.keys)
        repeat = min(repeat, some)
    merged = rows
    if tile.causal and rows == tile.query.length and keys < tile.key.length:  # a triangle, and what lies below it
        rows, merged = max(keys, rows - keys), max(keys, rows - 2 * keys if tile.fresh else rows - keys)
    if tile.piece:
        keys = min(keys, max(cuts.copied, tile.piece) // tile.piece * tile.piece)
        repeat = min(repeat, max(1, cuts.copied // keys))
        copied_heads = problem.kv_heads if problem.group_size > 1 else tile.heads
    whole_batch = repeat == 1 and not tile.gathers_queries
    return Call(
        together=problem.batch if whole_batch else repeat,
        heads=tile.heads,
        rows=rows,
        keys=keys,
        copied_heads=copied_heads,
        copies_queries=tile.gathers_queries or (copies and tile.query.step > 1),
        copies_sums=tile.gathers_queries,
        merged_rows=merged if cut or not tile.fresh or keys < tile.key.length else 0,  # later parts are merged
        held=1 if whole_batch else min(problem.batch, 3),
    )


def most_within(span: Span, size: int) -> tuple[int, int]:
    """The most (repeats, positions of each) that fall into one block of a size.

    >>> most_within(Span(0, 512, step=4, repeat=8, stride=2048), 4096), most_within(Span(0, 4096, step=4), 4096)
    ((2, 512), (1, 1024))
    """
    extent = span.step * (span.length - 1) + 1
    if span.repeat == 1 or size < extent:
        return 1, min(span.length, -(-size // span.step))
    return min(span.repeat, (size - extent) // span.stride + 1), span.length
