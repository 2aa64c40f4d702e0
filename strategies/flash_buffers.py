"""What torch's flash attention for CPUs allocates while it runs, beside its results.

The sizes are those of ``aten/src/ATen/native/cpu/FlashAttentionKernel.cpp`` (torch 2.13): a block of scores for each
thread, and what goes with it. Buffers for packed operands, which only CPUs with AMX get, are not counted.
"""

import torch

from autotune.strategies.problem import Problem

KEYS_AT_ONCE = 512


def rows_at_once(rows: int) -> int:
    """Queries of a block.

    >>> rows_at_once(4096), rows_at_once(512), rows_at_once(100), rows_at_once(5)
    (256, 64, 32, 5)
    """
    return min(rows, 256 if rows >= 768 else 64 if rows >= 192 else 32)


def forward_buffers(problem: Problem, rows: int, keys: int) -> int:
    """Bytes of a call with so many queries and keys: scores, their maxima and sums, and the output of a block."""
    return 0 if problem.device != "cpu" else block_buffers(problem, rows_at_once(rows), min(keys, KEYS_AT_ONCE))


def block_buffers(problem: Problem, rows: int, keys: int) -> int:
    """Bytes of all threads, each of which works on a block of so many queries and keys."""
    item = problem.torch_dtype.itemsize
    elements = rows * keys + 2 * rows + rows * problem.head_dim
    narrowed = rows * keys * item if item < 4 else 0  # weights, as the second product reads them
    return torch.get_num_threads() * (elements * max(4, item) + narrowed)


def backward_buffers(problem: Problem, rows: int, keys: int) -> int:
    """Bytes of a backward call: the weights and their gradient, and for float16 and bfloat16 narrow copies of both."""
    if problem.device != "cpu":
        return 0
    item, keys = problem.torch_dtype.itemsize, min(keys, KEYS_AT_ONCE)
    block = 2 * rows_at_once(rows) * keys
    narrowed = block * item + keys * problem.head_dim * 4 if item < 4 else 0  # and a product, before it is rounded
    return torch.get_num_threads() * (block * max(4, item) + narrowed)
