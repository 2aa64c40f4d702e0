"""The caller's own block mask."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

import numpy as np
import torch

from autotune.strategies.block_runs import BlockRuns, Numbers, block_numbers, runs_of_pairs
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern_blocks import BlockSparse, require_whole
from autotune.strategies.problem import Problem


@dataclass(frozen=True)
class BlockLayout(BlockSparse):
    """Query block i sees the key blocks that the caller lists; make one with `from_mask` or `from_pairs`.

    It is for sequences of ``blocks`` blocks, and for no others. ``runs_base64``: the number of runs of every row, then
    the first block of every run, then the block after its last, all as little-endian numbers of 4 bytes.
    """

    blocks_per_side: int
    runs_base64: str
    block_size: int = 128
    kind: ClassVar[str] = "block_layout"

    def __post_init__(self) -> None:
        require_whole("blocks_per_side", self.blocks_per_side, 1)
        require_whole("block_size", self.block_size, 1)
        layout = _decoded(self.blocks_per_side, self.runs_base64)
        if len(empty := np.flatnonzero(np.diff(layout.pointer) == 0)):
            raise PatternError(f"query block {empty[0]} sees no key block, but every query must have a key; add one")

    @classmethod
    def from_mask(cls, mask: torch.Tensor | Sequence[Sequence[bool]], block_size: int = 128) -> "BlockLayout":
        """From a mask of booleans, shape (query blocks, key blocks).

        >>> BlockLayout.from_mask([[True, False], [True, True]], block_size=64).label
        'block_layout 20cd54a1 2x2 seen=3 block=64'

        Raises:
            PatternError: it is not square, or leaves some query block without a key block.
        """
        grid = torch.as_tensor(mask)
        if grid.dim() != 2 or grid.shape[0] != grid.shape[1]:
            raise PatternError(f"mask has shape {tuple(grid.shape)}, but must be (blocks, blocks)")
        rows, columns = grid.cpu().bool().numpy().nonzero()
        return cls._from_arrays(rows, columns, len(grid), block_size)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]], blocks: int, block_size: int = 128) -> "BlockLayout":
        """From (query block, key block) pairs, in any order.

        Raises:
            PatternError: a number is out of range, or some query block has no key block.
        """
        listed = np.array([*pairs], np.int64).reshape(-1, 2)
        if len(bad := listed[(listed < 0) | (listed >= blocks)]):
            raise PatternError(f"pairs hold block {bad[0]}, but must be from 0 to {blocks - 1}")
        return cls._from_arrays(listed[:, 0], listed[:, 1], blocks, block_size)

    @classmethod
    def _from_arrays(cls, rows: Numbers, columns: Numbers, blocks: int, block_size: int) -> "BlockLayout":
        layout = runs_of_pairs(blocks, rows, columns)
        parts = (np.diff(layout.pointer), layout.starts, layout.stops)
        content = b"".join(part.astype("<u4").tobytes() for part in parts)
        return cls(blocks, b64encode(content).decode(), block_size)

    @property
    def label(self) -> str:
        """The beginning of the content's hash, blocks in all and seen, block size."""
        layout, side = self.find_runs(0), self.blocks_per_side
        digest = sha256(self.runs_base64.encode()).hexdigest()[:8]
        seen = int((layout.stops.astype(np.int64) - layout.starts).sum())
        return f"block_layout {digest} {side}x{side} seen={seen} block={self.block_size}"

    @property
    def block_length(self) -> int:
        """Tokens in a block."""
        return self.block_size

    def find_runs(self, seq_len: int) -> BlockRuns:
        """As the caller listed them."""
        return _decoded(self.blocks_per_side, self.runs_base64)

    def validate(self, problem: Problem) -> None:
        """Refuse cross-attention, another number of blocks, and rows that the causal cut leaves without a key."""
        super().validate(problem)
        side, size = self.blocks_per_side, self.block_size
        if self.blocks(problem.kv_len) != side:
            raise PatternError(
                f"kv_len is {problem.kv_len}, but this block_layout of {side} blocks of {size} is for lengths from "
                f"{(side - 1) * size + 1} to {side * size}; make one for this length"
            )
        layout = self.layout(problem.kv_len)
        late = layout.starts[layout.pointer[:-1]] > np.arange(side)
        if problem.causal and late.any():
            raise PatternError(
                f"query block {late.argmax()} sees only key blocks after itself, which leaves its queries with no key "
                "if causal; add a block at or before the diagonal"
            )


def _decoded(blocks: int, text: str) -> BlockRuns:
    """The runs that were encoded.

    Raises:
        PatternError: the text is damaged.
    """
    try:
        numbers = np.frombuffer(b64decode(text, validate=True), "<u4")
    except (ValueError, TypeError) as error:
        raise PatternError(f"runs_base64 is {text[:40]!r}, but must be base64 of whole numbers of 4 bytes") from error
    pointer = np.cumsum(np.append(0, numbers[:blocks]))
    if len(pointer) != blocks + 1 or len(numbers) != blocks + 2 * pointer[-1]:
        raise PatternError(f"runs_base64 holds {len(numbers)} numbers, which is no list of runs for {blocks} rows")
    starts, stops = (part.astype(np.int64) for part in np.split(numbers[blocks:], 2))
    base = np.repeat(np.arange(blocks), np.diff(pointer)) * (blocks + 1)
    edges = np.stack([starts + base, stops + base], axis=1).ravel()  # a run ends before the next one begins
    if (np.diff(edges) < 1).any() or (stops > blocks).any():
        raise PatternError("runs_base64 holds runs that are empty, overlap, or end outside the mask")
    kind = block_numbers(blocks)
    return BlockRuns(pointer.astype(np.int32), starts.astype(kind), stops.astype(kind))
