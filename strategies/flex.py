"""FlexAttention: every pattern as a block mask built directly, never through an N x N mask."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from autotune.strategies.compiling import compiled
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy

BLOCK = 128
Modifier = Callable[..., torch.Tensor]


class Flex(Strategy):
    """One fused kernel that skips empty blocks; always compiled, for uncompiled it would build the N x N scores."""

    name: ClassVar[str] = "flex"

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """No backward on the CPU; no small heads on CUDA; float64 nowhere."""
        if problem.device == "cpu" and problem.training:
            return "FlexAttention has no backward on the CPU"
        if problem.device == "cuda" and problem.head_dim < 16:
            return f"FlexAttention on CUDA takes no head_dim below 16, and this is {problem.head_dim}"
        if problem.dtype == "float64":
            return "FlexAttention takes no float64"
        return None

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """Compile options; on CUDA the kernel's tile shape and pipelining too, 0 leaving them to torch."""
        kernel = (
            ()
            if problem.device == "cpu"
            else (
                Choice("block_m", (0, 64, 128)),
                Choice("block_n", (0, 32, 64, 128)),
                Choice("num_warps", (0, 4, 8)),
                Choice("num_stages", (0, 2, 3, 4)),
            )
        )
        # CUDA graphs gain nothing on a single launch, and a block mask holds for one length only.
        modes = ("default",) if problem.device == "cpu" else ("default", "max-autotune-no-cudagraphs")
        return Space(self.name, (*kernel, Choice("compile", modes)))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Output, log-sum-exp, block lists; gradients when training."""
        blocks = -(-problem.query_len // BLOCK) * _list_width(problem, pattern)
        total = problem.output_bytes + 4 * problem.batch * problem.heads * problem.query_len + 8 * blocks
        return total + (2 * problem.output_bytes + problem.kv_bytes if problem.training else 0)

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind block mask and score modifier; the mask is made for the device of the first call."""
        options: Any = {
            name.upper() if name.startswith("block") else name: size
            for name in ("block_m", "block_n", "num_warps", "num_stages")
            if (size := config.integer(name, 0))
        }
        attention = compiled(flex_attention, config)
        score_mod = multiplicity_bias(problem, pattern) if isinstance(pattern, Dilated) else None
        masks: dict[torch.device, BlockMask] = {}

        def attend(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
        ) -> torch.Tensor:
            if query.device not in masks:
                masks[query.device] = block_mask(problem, pattern, query.device)
            result: torch.Tensor = attention(
                query,
                key,
                value,
                score_mod=score_mod,
                block_mask=masks[query.device],
                scale=scale,
                enable_gqa=problem.group_size > 1,
                kernel_options=options or None,
            )
            return result

        return attend


def multiplicity_bias(problem: Problem, pattern: Pattern) -> Modifier:
    """A score modifier that adds log m for a key counted m times."""
    count = pattern.counter(problem)

    def score_mod(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score + torch.log(count(head, query, key).to(torch.float32))

    return score_mod


def mask_function(problem: Problem, pattern: Pattern) -> Modifier:
    """Whether a query sees a key, causal cut included."""
    count = pattern.counter(problem)

    def mask_mod(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        seen = count(head, query, key) > 0
        return seen & (key <= query) if problem.causal else seen

    def dense(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        # Not just True: a constant mask comes out wrong in the CPU's last, partial block (torch 2.13).
        return key <= query if problem.causal else key < problem.kv_len

    return dense if isinstance(pattern, Dense) else mask_mod


def block_mask(problem: Problem, pattern: Pattern, device: torch.device) -> BlockMask:
    """The pattern's block lists, in time and memory proportional to the blocks listed.

    Also where nothing is masked: without block lists the CPU's kernel allocates N x N bytes, eight times over.
    """
    partial: list[list[int]] = []
    full: list[list[int]] = []
    for start in range(0, problem.query_len, BLOCK):
        some, whole = _key_blocks(problem, pattern, start, min(start + BLOCK, problem.query_len))
        partial.append(some)
        full.append(whole)
    columns = _list_width(problem, pattern)
    partial_counts, partial_blocks = _lists(partial, columns, device)
    full_counts, full_blocks = _lists(full, columns, device)
    return BlockMask.from_kv_blocks(
        partial_counts,
        partial_blocks,
        full_counts,
        full_blocks,
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_function(problem, pattern),
        seq_lengths=(problem.query_len, problem.kv_len),
        compute_q_blocks=problem.training,
    )


def _list_width(problem: Problem, pattern: Pattern) -> int:
    """Columns of the block lists: all blocks where the CPU's kernel or the lists of the backward pass need them."""
    if problem.device == "cpu" or problem.training:
        return -(-problem.kv_len // BLOCK)
    rows = range(0, problem.query_len, BLOCK)
    extents = (pattern.extent(problem, start, min(start + BLOCK, problem.query_len)) for start in rows)
    return max(-(-last // BLOCK) - first // BLOCK for first, last in extents)


def _key_blocks(problem: Problem, pattern: Pattern, start: int, stop: int) -> tuple[list[int], list[int]]:
    """(partially seen, fully seen) key blocks of queries ``start .. stop - 1``."""
    first, last = pattern.extent(problem, start, stop)
    full_first, full_last = pattern.common(problem, start, stop)
    if problem.causal:
        last, full_last = min(last, stop), min(full_last, start)
    whole = range(-(-full_first // BLOCK), max(-(-full_first // BLOCK), full_last // BLOCK))
    some = [block for block in range(first // BLOCK, -(-last // BLOCK)) if block not in whole]
    return some, list(whole)


def _lists(rows: list[list[int]], columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts (1, 1, Q) and block numbers (1, 1, Q, K), K at least ``columns``, the rest of each row zero."""
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int32, device=device)
    columns = max(columns, *(len(row) for row in rows))
    blocks = torch.tensor([row + [0] * (columns - len(row)) for row in rows], dtype=torch.int32, device=device)
    return counts[None, None], blocks[None, None]
