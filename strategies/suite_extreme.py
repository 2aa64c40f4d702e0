"""The published "extreme sequence" benchmark, every row computing what its name promises."""

from collections.abc import Callable
from functools import partial

from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite import Implementation, Series, Suite, configured

EXACT = "Exact_SDPA"
FAST_BLOCK = {"cpu": 4096, "cuda": 65536}
SPARSITIES = (0.9, 0.95)
QUERY_BLOCK = 4096  # tokens of the output that are worked on at a time, where the workspace is bounded


def _dilated(pattern: Pattern) -> bool:
    return isinstance(pattern, Dilated)


def _ring(chunks: int, query_block: int = 0) -> Callable[[Problem, Pattern], Config]:
    def config(problem: Problem, pattern: Pattern) -> Config:
        chunk_size = -(-problem.kv_len // chunks)
        return configured("ring", problem, pattern, chunk_size=chunk_size, query_block=query_block)

    return config


def _ring_row(chunks: int) -> Implementation:
    visited = "one chunk" if chunks == 1 else f"{chunks} chunks, one after the other, their softmaxes merged"
    return Implementation(
        name=f"RingDilatedAttentionV2_r{chunks}",
        definition=f"The function of DilatedAttention; keys and values visited in {visited}. Every R is one function.",
        serves=_dilated,
        config=_ring(chunks),
    )


def _production_row(chunks: int) -> Implementation:
    return Implementation(
        name=f"RingDilatedAttentionProduction_r{chunks}",
        definition=(
            f"The function of DilatedAttention; {QUERY_BLOCK:,} queries at a time, which visit keys and values in "
            f"{chunks} chunk{'s' if chunks > 1 else ''}. Beside the output and its log-sum-exp, the memory of a "
            "forward pass does not grow with the length."
        ),
        serves=_dilated,
        config=_ring(chunks, QUERY_BLOCK),
    )


def _local_window_row(sparsity: float) -> Implementation:
    window = LocalWindow(sparsity)

    def refusal(problem: Problem) -> str:
        if (density := window.density(problem)) <= (1 - sparsity) * (1 + 1e-12):  # 1 - 0.9 is a little below 0.1
            return ""
        return f"the diagonal blocks alone are {density:.0%} of all pairs at {problem.kv_len:,} tokens"

    return Implementation(
        name=f"BlockSparse_LocalWindow_{sparsity:g}",
        definition=(
            f"Every query sees the keys of its own block of {window.block_size} tokens and of the k blocks on either "
            f"side, in one softmax; k is the largest with which at most {1 - sparsity:.0%} of all pairs are computed."
        ),
        serves=lambda pattern: pattern == window,
        config=partial(configured, "block_sparse", query_tile=1024, query_block=QUERY_BLOCK),
        refusal=refusal,
    )


EXTREME = Suite(
    name="extreme",
    title="Extreme sequence lengths",
    series=(
        Series(
            lengths=tuple(4096 * 2**doubling for doubling in range(7)),
            patterns=("dense", "dilated", *map(LocalWindow, SPARSITIES)),
        ),
    ),
    implementations=(
        Implementation(
            name=EXACT,
            definition="The baseline: exact attention by torch's scaled_dot_product_attention; every query, every key.",
            serves=lambda pattern: pattern == Dense(),
            config=partial(configured, "sdpa", backend="auto"),
        ),
        Implementation(
            name="DilatedAttention",
            definition=(
                "LongNet's dilated attention (arXiv 2307.02486): every head takes part in every branch, and a query's "
                "branches share one softmax. Branch by branch over the whole sequence, not compiled."
            ),
            serves=_dilated,
            config=partial(configured, "dilated", query_block=0),
        ),
        Implementation(
            name="ImprovedDilatedAttention",
            definition=(
                "The function of DilatedAttention, as fast as we know how on one device: some thousand queries are "
                "finished before the next begin, so that partial results are merged before they leave the cache."
            ),
            serves=_dilated,
            config=lambda problem, pattern: configured(
                "dilated", problem, pattern, query_block=FAST_BLOCK[problem.device]
            ),
        ),
        *(_ring_row(chunks) for chunks in (1, 4, 8, 16)),
        *(_production_row(chunks) for chunks in (1, 8, 16)),
        *(_local_window_row(sparsity) for sparsity in SPARSITIES),
    ),
)
