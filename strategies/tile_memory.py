"""What running tiles holds beside the inputs: the sizes of the tensors that `tile_attention` has at one time."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.strategies.flash_buffers import backward_buffers, forward_buffers
from autotune.strategies.gathers import Gather
from autotune.strategies.problem import Problem
from autotune.strategies.tiles import Span, Tile


def tile_bytes(problem: Problem, tiles: Iterable[Tile], block: int, copied_at_once: int, *, copies: bool) -> int:
    """Peak of a call.

    Args:
        problem: what is computed.
        tiles: all of them.
        block: queries that are finished before the next begin.
        copied_at_once: key positions that one kernel call may gather.
        copies: whether rows that lie apart are brought together before a kernel reads them.
    """
    calls = {_largest_call(tile, problem, block, copied_at_once, copies) for tile in tiles}
    rows, item = problem.batch * problem.heads * problem.query_len, problem.torch_dtype.itemsize
    results = problem.output_bytes + rows * 4
    sums = 0 if item == 4 else problem.batch * problem.heads * block * problem.head_dim * 4
    forward = results + sums + max(call.forward_bytes(problem) for call in calls)
    if not problem.training:
        return forward
    gradients = problem.output_bytes + problem.kv_bytes
    rounded = 0 if item == 4 else gradients
    summing = gradients // item * 4 + max(rounded, *(call.backward_bytes(problem) for call in calls))
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
    fresh: bool
    held: int  # sets of copies: the loop over batch elements lets go of them late

    def forward_bytes(self, problem: Problem) -> int:
        """Copies of operands, and either one that is made on the way, or results with what comes beside them."""
        rows, query_bytes = self.together * self.heads * self.rows, self._query_bytes(problem)
        wide = rows * problem.head_dim * 4
        copies = self._key_copies(problem) + (query_bytes if self.copies_queries else 0)
        copies += wide + rows * 4 if self.copies_sums else 0
        buffers = forward_buffers(problem, self.rows, self.keys)
        merging = 0 if self.fresh else 2 * rows * 4 + (0 if problem.torch_dtype.itemsize == 4 else wide)
        results = query_bytes + rows * 4 + max(buffers, merging)
        return self.held * copies + max(self._spreading(problem), results)

    def backward_bytes(self, problem: Problem) -> int:
        """Copies of operands, and either one that is made on the way, or gradients with what comes beside them."""
        query_bytes, key_bytes = self._query_bytes(problem), self._key_bytes(problem, self.heads)
        # The gradient of the output, the query, the output and its log-sum-exp.
        copies = 3 * query_bytes + self.together * self.heads * self.rows * 4 if self.copies_queries else 0
        # The kernel lays the gradient of the output out anew.
        kernel = query_bytes + backward_buffers(problem, self.rows, self.keys)
        adding = self._key_bytes(problem, self.copied_heads, 4) if problem.group_size > 1 else 0
        if (item := problem.torch_dtype.itemsize) != 4:
            adding += max(query_bytes, key_bytes) // item * 4
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


def _largest_call(tile: Tile, problem: Problem, block: int, copied_at_once: int, copies: bool) -> Call:
    repeat, rows = most_rows(tile.query, block)
    keys, copied_heads = tile.key.length, 0
    if copies and tile.key.step > 1 and problem.group_size == 1:
        copied_heads = tile.head_count
    if isinstance(tile.key, Gather):
        keys = min(keys, max(copied_at_once, tile.key.piece) // tile.key.piece * tile.key.piece)
        repeat = min(repeat, max(1, copied_at_once // keys))
        copied_heads = problem.kv_heads if problem.group_size > 1 else tile.head_count
    whole_batch = repeat == 1 and isinstance(tile.query, Span)
    return Call(
        together=problem.batch if whole_batch else repeat,
        heads=tile.head_count,
        rows=rows,
        keys=keys,
        copied_heads=copied_heads,
        copies_queries=isinstance(tile.query, Gather) or (copies and tile.query.step > 1),
        copies_sums=isinstance(tile.query, Gather),
        fresh=tile.fresh,
        held=1 if whole_batch else min(problem.batch, 3),
    )


def most_rows(query: Span | Gather, block: int) -> tuple[int, int]:
    """The most (repeats, rows of each) that fall into one block of queries.

    >>> most_rows(Span(0, 512, step=4, repeat=8, stride=2048), 4096), most_rows(Span(0, 4096, step=4), 4096)
    ((2, 512), (1, 1024))
    """
    extent = query.step * (query.length - 1) + 1
    if query.repeat == 1 or block < extent:
        return 1, min(query.length, -(-block // query.step))
    stride = query.length if isinstance(query, Gather) else query.stride
    return min(query.repeat, (block - extent) // stride + 1), query.length
