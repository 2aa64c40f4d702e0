"""A second oracle, written from the definitions alone: slow, plain, and sharing no code with the product's.

Of the product's patterns it reads only their parameters. Everything else (who sees whom, how often, what comes out,
how many layers until all is seen) is derived here, one query at a time.
"""

import base64
import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch

from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.problem import Problem


@lru_cache(maxsize=100_000)
def _segment_grid(seq_len: int, w: int, r: int, offset: int, segment: int) -> np.ndarray:
    """Positions of one segment that are on the grid of its branch."""
    positions = range(segment * w, min((segment + 1) * w, seq_len))
    return np.array([i for i in positions if (i % w) % r == offset], dtype=np.int64)


def _dilated_row(pattern: Dilated, heads: int, seq_len: int, head: int, query: int) -> np.ndarray:
    counts = np.zeros(seq_len, dtype=np.int64)
    for w, r in zip(pattern.segment_lengths, pattern.dilation_rates, strict=True):
        offset = head % r if pattern.offsets == "modulo" else head // math.ceil(heads / r)
        grid = _segment_grid(seq_len, w, r, offset, query // w)
        if query in grid:
            counts[grid] += 1
    return counts


@lru_cache(maxsize=1024)
def half_width(sparsity: float, block_size: int, seq_len: int) -> int:
    """The largest k for which the blocks with |i - j| <= k hold at most 1 - sparsity of all (query, key) pairs."""
    sizes = [min(block_size, seq_len - start) for start in range(0, seq_len, block_size)]
    budget = (1 - Fraction(str(sparsity))) * seq_len**2  # the decimal the user wrote, not its nearest double
    held, best = 0, 0
    for k in range(len(sizes)):
        diagonal = sum(sizes[i] * sizes[i + k] for i in range(len(sizes) - k))
        held += diagonal if k == 0 else 2 * diagonal
        if held <= budget:
            best = k
    return best


def _local_window_row(pattern: LocalWindow, seq_len: int, query: int) -> np.ndarray:
    k = half_width(pattern.sparsity, pattern.block_size, seq_len)
    return np.array([abs(query // pattern.block_size - j // pattern.block_size) <= k for j in range(seq_len)], np.int64)


def splitmix64(seed: int, number: int) -> int:
    """One output of Steele, Lea and Flood's generator (2014)."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def _big_bird_blocks(pattern: GlobalWindowRandom, blocks: int, i: int) -> set[int]:
    if i < pattern.global_blocks:
        return set(range(blocks))
    seen = {j for j in range(blocks) if j < pattern.global_blocks or abs(i - j) <= (pattern.window_blocks - 1) // 2}
    free, r = sorted(set(range(blocks)) - seen), pattern.random_blocks
    for t in range(r):
        part = free[t * len(free) // r : (t + 1) * len(free) // r]
        if part:
            seen.add(part[(splitmix64(pattern.seed, i * r + t) >> 32) * len(part) >> 32])
    return seen


def _strided_blocks(pattern: Strided, blocks: int, i: int) -> set[int]:
    return {j for j in range(blocks) if abs(i - j) < pattern.local_blocks or (i - j) % pattern.stride_blocks == 0}


def _listed_blocks(pattern: BlockLayout, blocks: int, i: int) -> set[int]:
    assert blocks == pattern.blocks_per_side
    text = base64.b64decode(pattern.runs_base64)
    numbers = [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]
    counts, runs = numbers[:blocks], (len(numbers) - blocks) // 2
    starts, stops = numbers[blocks : blocks + runs], numbers[blocks + runs :]
    mine = range(sum(counts[:i]), sum(counts[: i + 1]))
    return {j for run in mine for j in range(starts[run], stops[run])}


BLOCKS_OF = {GlobalWindowRandom: _big_bird_blocks, Strided: _strided_blocks, BlockLayout: _listed_blocks}


@lru_cache(maxsize=1024)
def seen_blocks(pattern: Pattern, blocks: int, i: int) -> set[int]:
    """The key blocks of one query block."""
    return BLOCKS_OF[type(pattern)](pattern, blocks, i)


def _blocks_row(pattern: Pattern, seq_len: int, query: int) -> np.ndarray:
    size = pattern.block_size
    seen = seen_blocks(pattern, math.ceil(seq_len / size), query // size)
    return np.array([j // size in seen for j in range(seq_len)], np.int64)


def row(pattern: Pattern, problem: Problem, head: int, query: int, *, causal: bool | None = None) -> np.ndarray:
    """How often one query of one head counts each key; `causal` overrides the problem's own setting."""
    if isinstance(pattern, Dense):
        counts = np.ones(problem.kv_len, dtype=np.int64)
    elif isinstance(pattern, Dilated):
        counts = _dilated_row(pattern, problem.heads, problem.query_len, head, query)
    elif isinstance(pattern, LocalWindow):
        counts = _local_window_row(pattern, problem.query_len, query)
    elif type(pattern) in BLOCKS_OF:
        counts = _blocks_row(pattern, problem.query_len, query)
    else:
        raise TypeError(f"no naive definition of {pattern}")
    if problem.causal if causal is None else causal:
        counts[query + 1 :] = 0
    return counts


def _rows(pattern: Pattern, problem: Problem, queries: Iterable[int], *, causal: bool) -> torch.Tensor:
    drawn = range(problem.heads) if isinstance(pattern, Dilated) else [0]  # heads differ only in dilated patterns
    rows = np.array([[row(pattern, problem, head, i, causal=causal) for i in queries] for head in drawn])
    return torch.from_numpy(rows).expand(problem.heads, -1, -1)


@lru_cache(maxsize=8)
def _all_rows(pattern: Pattern, heads: int, query_len: int, kv_len: int, causal: bool) -> torch.Tensor:
    problem = Problem(heads=heads, kv_heads=heads, query_len=query_len, kv_len=kv_len)
    return _rows(pattern, problem, range(query_len), causal=causal)


def counts(
    pattern: Pattern, problem: Problem, queries: list[int] | None = None, *, causal: bool | None = None
) -> torch.Tensor:
    """Multiplicities of some (or all) queries of every head, shape (H, R, Lk)."""
    causal = problem.causal if causal is None else causal
    if queries is None:
        return _all_rows(pattern, problem.heads, problem.query_len, problem.kv_len, causal)
    return _rows(pattern, problem, queries, causal=causal)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, counts: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """One softmax over a multiset of keys, in float64 and differentiable; `counts` belong to the rows of `query`."""
    query, key, value = query.double(), key.double(), value.double()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs = []
    for head in range(query.shape[1]):
        kv_head = head // (query.shape[1] // key.shape[1])
        scores = query[:, head] @ key[:, kv_head].transpose(-1, -2) * scale
        scores = scores.masked_fill(counts[head] == 0, -math.inf)
        weights = counts[head] * torch.exp(scores - scores.detach().amax(-1, keepdim=True))
        outputs.append(weights @ value[:, kv_head] / weights.sum(-1, keepdim=True))
    return torch.stack(outputs, dim=1)


def reach(adjacency: torch.Tensor) -> int | None:
    """Smallest power of a boolean (N, N) matrix that is true everywhere; None where no power is."""
    step = adjacency.double()
    reached, layers = step, 1
    while not bool((reached > 0).all()):
        wider = ((reached + reached @ step) > 0).double()
        if torch.equal(wider, reached):
            return None
        reached, layers = wider, layers + 1
    return layers
