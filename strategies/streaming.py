"""Keys and values that lie in the host's memory: each chunk comes to the device while it attends to the one before.

Ring Attention (arXiv 2310.01889) with the host in the place of the next device of the ring. The device holds two
chunks, however long the sequence is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle, groupby, product, tee

import torch

from autotune.strategies.errors import UnsupportedError
from autotune.strategies.tile_attention import Part, TilePlan, run_blocks, scaled
from autotune.strategies.tile_schedule import QueryBlock
from autotune.strategies.tiles import Tile

CHUNKS_HELD = 2  # one in use, one on its way


class Copier:
    """Copies chunks of keys and values into buffers on a device, which take turns; when `start` returns, it is done.

    Args:
        key: shape (B, Hkv, Lk, D).
        value: shape (B, Hkv, Lk, D).
        device: where the buffers are.
        size: positions of the longest chunk.
    """

    def __init__(self, key: torch.Tensor, value: torch.Tensor, device: torch.device, size: int) -> None:
        self._source = key, value
        batch, heads, length, head_dim = key.shape
        shape = (2, batch, heads, min(size, length), head_dim)
        self._buffers = [torch.empty(shape, dtype=key.dtype, device=device) for _ in range(CHUNKS_HELD)]
        self._next = cycle(self._buffers)

    def start(self, chunk: slice) -> torch.Tensor:
        """Begin to copy these positions into the buffer released last: keys and values, (2, B, Hkv, length, D)."""
        batch, heads, length, _ = self._source[0].shape
        copy = next(self._next)[..., : len(range(length)[chunk]), :]
        for kind, b, h in product(range(2), range(batch), range(heads)):
            # Head by head: torch copies what does not lie together twice, and waits for it.
            copy[kind, b, h].copy_(self._source[kind][b, h, chunk], non_blocking=True)
        return copy

    def ready(self, copy: torch.Tensor) -> None:
        """Have the copy whole; none after it has been started."""

    def release(self, copy: torch.Tensor) -> None:
        """Nothing that is called from here on reads the copy."""


class CudaCopier(Copier):
    """Copies on a stream of its own, beside the kernels; at the bus's full speed what is pinned."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, device: torch.device, size: int) -> None:
        super().__init__(key, value, device, size)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for buffer in self._buffers:
            buffer.record_stream(self._stream)  # an error may leave a copy under way
            self.release(buffer)  # whoever had its memory before may still be at it

    def start(self, chunk: slice) -> torch.Tensor:
        """See `Copier`."""
        with torch.cuda.stream(self._stream):
            return super().start(chunk)

    def ready(self, copy: torch.Tensor) -> None:
        """The host waits while the device works on the chunk before; so when a call returns, keys may be changed."""
        self._stream.synchronize()

    def release(self, copy: torch.Tensor) -> None:
        """What is copied from here on waits for the kernels called so far."""
        self._stream.wait_stream(torch.cuda.current_stream(copy.device))


def bind_streamed(plan: TilePlan, size: int) -> Callable[..., torch.Tensor]:
    """`attend_streamed` with the plan and the size of its chunks filled in."""
    return partial(attend_streamed, plan, size)


def attend_streamed(
    plan: TilePlan,
    size: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention over the union of the plan's tiles, of which none reaches beyond its chunk of keys.

    Args:
        plan: the tiles; together they must give every query a key.
        size: positions of a chunk.
        query: shape (B, Hq, Lq, D), on the device.
        key: shape (B, Hkv, Lk, D), in the host's memory.
        value: shape (B, Hkv, Lk, D), in the host's memory.
        scale: factor on the scores; 1 / sqrt(D) if None.

    Returns:
        Shape (B, Hq, Lq, D), the dtype of query.

    Raises:
        UnsupportedError: gradients are wanted, or a CUDA graph is being captured.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise UnsupportedError("keys and values in the host's memory get no gradients; detach all three tensors")
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise UnsupportedError("a CUDA graph cannot capture keys and values in the host's memory; move them to the GPU")
    query, scale = scaled(query, scale)
    copier = (CudaCopier if query.is_cuda else Copier)(key, value, query.device, size)
    blocks, ahead = tee(plan.blocks)  # the copies go on with the next block while this one is at work
    copies = one_ahead((chunk for block in ahead for chunk in chunks_of(block, size)), copier)
    return run_blocks(plan, query, ((block, _parts(block, size, copies)) for block in blocks), scale)[0]


def _parts(block: QueryBlock, size: int, copies: Iterator[torch.Tensor]) -> Iterator[Part]:
    """The block's tiles chunk by chunk, each with its copy; what is left of the copies is the next block's."""
    # Not strict, and the block first: it ends before one more copy is asked for.
    return ((part, keys, values) for part, (keys, values) in zip(by_chunk(block, size), copies, strict=False))


def chunks_of(block: QueryBlock, size: int) -> Iterator[slice]:
    """Each chunk of keys that a block visits, as often as it comes to it; those of `by_chunk`."""
    return (slice(number * size, (number + 1) * size) for number, _ in _visited(block, size))


def by_chunk(block: QueryBlock, size: int) -> Iterator[QueryBlock]:
    """For each chunk that a block visits the tiles that do, with their keys counted from its start."""
    for number, tiles in _visited(block, size):
        shifted = tuple(replace(tile, key=tile.key.shifted(-number * size)) for tile in tiles)
        yield QueryBlock(block.start, block.stop, shifted)


def _visited(block: QueryBlock, size: int) -> Iterator[tuple[int, Iterator[Tile]]]:
    """The number of each chunk that a block visits, and its tiles."""
    return groupby(block.tiles, key=lambda tile: tile.key.start // size)


def one_ahead(chunks: Iterable[slice], copier: Copier) -> Iterator[torch.Tensor]:
    """The copy of each chunk, good until the next is asked for, which a device copies while it works on this one."""
    copies = map(copier.start, chunks)
    copy = next(copies, None)
    while copy is not None:
        copier.ready(copy)
        yield copy
        ahead = next(copies, None)  # after the kernels are called: the host is busy with what is not pinned
        copier.release(copy)
        copy = ahead
