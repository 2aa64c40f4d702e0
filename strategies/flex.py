"""FlexAttention: every pattern as a block mask built directly, never through an N x N mask of tokens.

The kernels read the mask as tables with a row for each block of queries, as wide as the longest one: blocks x blocks
where one row sees every block, on the CPU (of blocks seen in part) and in training, which take no narrower ones.
"""

from typing import Any, ClassVar

import torch
from torch.nn.attention.flex_attention import BlockMask, and_masks, flex_attention

from autotune.strategies.block_runs import Numbers
from autotune.strategies.compiling import compiled
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.flash_buffers import block_buffers
from autotune.strategies.flex_lists import BLOCK, BlockLists, Modifier, block_counts, block_lists, padded
from autotune.strategies.flex_permuted import (
    permutation,
    permutation_refusal,
    permuted_attention,
    permuted_bytes,
    permuted_lists,
    permuted_problem,
)
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_blocks import BlockSparse
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy


class Flex(Strategy):
    """One fused kernel that skips empty blocks; always compiled, for uncompiled it would build the N x N scores.

    ``order``: ``permuted`` copies the rows of nested dilated branches so that they lie together, and puts back the
    output; ``sequence`` leaves them where they are.
    """

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
        """Compile options; on CUDA order, tile shape and pipelining too, of which 0 leaves the last two to torch."""
        # One name for a configuration at every length: at some there is nothing to permute.
        orders = ("sequence",) if permutation_refusal(problem, pattern) else ("sequence", "permuted")
        kernel = (
            ()
            if problem.device == "cpu"
            else (
                *((Choice("order", orders),) if isinstance(pattern, Dilated) else ()),
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
        """Output, block lists, on the CPU the kernel's buffers, on CUDA the log-sum-exp; gradients when training."""
        nested, counts = _permuted(problem, pattern, config), _counts(problem, pattern, config)
        listed = problem if nested is None else permuted_problem(problem, nested)
        total = 4 * len(counts[0]) * sum(_list_widths(listed, counts))
        if problem.device == "cpu":
            total += block_buffers(problem, BLOCK, BLOCK)
        else:
            total += 4 * problem.batch * problem.heads * problem.query_len
        if nested is not None:
            return total + permuted_bytes(problem, nested)
        return total + problem.output_bytes + (2 * problem.output_bytes + problem.kv_bytes if problem.training else 0)

    def flops(self, problem: Problem, pattern: Pattern, config: Config) -> float:
        """Those of all blocks that are visited, of which a pattern may need little."""
        visited = sum(int(counts.sum()) for counts in _counts(problem, pattern, config))
        return pattern.flops(problem) * problem.heads * visited * BLOCK**2 / pattern.pairs(problem)

    def one_length_only(self, config: Config) -> bool:
        """Always: a block mask is of one length."""
        return True

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Bind block mask and score modifier; the mask is made for the device of the first call."""
        options: Any = {
            name.upper() if name.startswith("block") else name: size
            for name in ("block_m", "block_n", "num_warps", "num_stages")
            if (size := config.integer(name, 0))
        }
        in_sequence = _permuted(problem, pattern, config) is None
        attention = compiled(flex_attention, config) if in_sequence else compiled(permuted_attention, config)
        arguments: dict[torch.device, dict[str, Any]] = {}

        def attend(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
        ) -> torch.Tensor:
            if query.device not in arguments:
                arguments[query.device] = _arguments(problem, pattern, config, query.device)
            result: torch.Tensor = attention(
                query, key, value, scale=scale, kernel_options=options or None, **arguments[query.device]
            )
            return result

        return attend


def _permuted(problem: Problem, pattern: Pattern, config: Config) -> Dilated | None:
    """The pattern where its rows are copied into another order; None where they stay in that of the sequence.

    Raises:
        UnsupportedError: there is no other order.
    """
    if config.string("order", "sequence") != "permuted":
        return None
    reason = permutation_refusal(problem, pattern)
    if reason is not None or not isinstance(pattern, Dilated):
        raise UnsupportedError(f"order is 'permuted', but there is none for {pattern.label}: {reason}")
    return pattern


def _arguments(problem: Problem, pattern: Pattern, config: Config, device: torch.device) -> dict[str, Any]:
    """What goes with query, key and value."""
    if (nested := _permuted(problem, pattern, config)) is None:
        bias = multiplicity_bias(problem, pattern) if isinstance(pattern, Dilated) else None
        mask = block_mask(problem, pattern, device)
        return {"score_mod": bias, "block_mask": mask, "enable_gqa": problem.group_size > 1}
    order = permutation(problem, nested, device)
    mask_mod = order.modifier(and_masks(mask_function(problem, nested), all_keys(problem)))
    mask = mask_of_lists(permuted_problem(problem, nested), permuted_lists(problem, nested), mask_mod, device)
    return {"score_mod": order.modifier(multiplicity_bias(problem, nested)), "block_mask": mask, "permutation": order}


def multiplicity_bias(problem: Problem, pattern: Pattern) -> Modifier:
    """A score modifier that adds log m for a key counted m times."""
    count = pattern.counter(problem)

    def score_mod(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score + torch.log(count(head, query, key).to(torch.float32))

    return score_mod


def mask_function(problem: Problem, pattern: Pattern) -> Modifier:
    """Whether a query sees a key of a block that is listed for it, causal cut included."""
    if isinstance(pattern, Dense) or (isinstance(pattern, BlockSparse) and pattern.block_length % BLOCK == 0):
        return all_keys(problem)
    count = pattern.counter(problem)

    def mask_mod(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        seen = count(head, query, key) > 0
        return seen & (key <= query) if problem.causal else seen

    return mask_mod


def all_keys(problem: Problem) -> Modifier:
    """Whether a query sees a key where only the causal cut can forbid it."""

    def mask_mod(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        # Not just True: a constant mask comes out wrong in the CPU's last, partial block (torch 2.13).
        return key <= query if problem.causal else key < problem.kv_len

    return mask_mod


def block_mask(problem: Problem, pattern: Pattern, device: torch.device) -> BlockMask:
    """The pattern's block lists, found in time and memory proportional to the blocks listed; see above for the tables.

    Also where nothing is masked: without block lists the CPU's kernel allocates N x N bytes, eight times over.
    """
    with device:  # where tables of the mask are made
        mask_mod = mask_function(problem, pattern)
    return mask_of_lists(problem, block_lists(problem, pattern), mask_mod, device)


def mask_of_lists(problem: Problem, lists: BlockLists, mask_mod: Modifier, device: torch.device) -> BlockMask:
    """The lists as the kernels read them."""
    widths = _list_widths(problem, (lists.partial_counts, lists.full_counts))
    return BlockMask.from_kv_blocks(
        *padded(lists.partial_counts, lists.partial, widths[0], device),
        *padded(lists.full_counts, lists.full, widths[1], device),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(problem.query_len, problem.kv_len),
        compute_q_blocks=problem.training,
    )


def _counts(problem: Problem, pattern: Pattern, config: Config) -> tuple[Numbers, Numbers]:
    """How many key blocks each block of queries sees in part, and how many as a whole."""
    if (nested := _permuted(problem, pattern, config)) is None:
        return block_counts(problem, pattern)
    lists = permuted_lists(problem, nested)
    return lists.partial_counts, lists.full_counts


def _list_widths(problem: Problem, counts: tuple[Numbers, Numbers]) -> tuple[int, int]:
    """Columns of the tables of partial and of full blocks, at least one."""
    blocks = -(-problem.kv_len // BLOCK)
    if problem.training:  # torch makes the lists of the backward pass by turning tables of blocks x blocks
        return blocks, blocks
    partial, full = (max(1, int(each.max())) for each in counts)
    return (blocks if problem.device == "cpu" else partial), full  # the CPU's kernel takes the columns for the length
