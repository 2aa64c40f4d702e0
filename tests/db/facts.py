"""Arbitrary facts, as hypothesis draws them."""

from dataclasses import replace

from hypothesis import strategies as st

from autotune.db.records import Environment, Measurement, Status
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import DIRECTIONS, DTYPES, KV_HOMES, Problem

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
FLOATS = st.none() | st.floats(allow_nan=False)
BYTES = st.none() | st.integers(0, 2**62)
MEASUREMENTS = st.builds(
    Measurement,
    status=st.sampled_from(Status),
    reason=TEXTS,
    times_ms=st.lists(st.floats(0, 1e12), max_size=8).map(tuple),
    peak_memory_bytes=BYTES,
    predicted_memory_bytes=BYTES,
    rel_error=FLOATS,
    max_abs_error=FLOATS,
    signal=st.none() | st.integers(1, 64),
    compile_s=FLOATS,
    gate_s=FLOATS,
    timing_s=FLOATS,
    race=st.none() | st.uuids().map(lambda uid: uid.hex),
)
ENVIRONMENTS = st.builds(
    Environment,
    **dict.fromkeys(Environment.__annotations__, TEXTS),
).flatmap(
    lambda environment: st.builds(
        lambda memory, threads: replace(environment, device_memory_bytes=memory, threads=threads),
        st.integers(0, 2**62),
        st.integers(1, 512),
    )
)
PROBLEMS = st.builds(
    lambda seq_len, kv_heads, group, **rest: Problem.self_attention(
        seq_len, heads=kv_heads * group, kv_heads=kv_heads, **rest
    ),
    st.integers(1, 2**40),
    st.integers(1, 8),
    st.integers(1, 8),
    batch=st.integers(1, 64),
    head_dim=st.integers(1, 512),
    dtype=st.sampled_from(sorted(DTYPES)),
    causal=st.booleans(),
    direction=st.sampled_from(DIRECTIONS),
    device=st.sampled_from(["cpu", "cuda"]),
    kv_home=st.sampled_from(KV_HOMES),
)
PATTERNS = st.sampled_from([Dense(), Dilated.longnet(8192), LocalWindow(sparsity=0.95), LocalWindow(sparsity=0.9)])
CONFIGS = st.builds(
    lambda strategy, params: Config.of(strategy, **params),
    st.sampled_from(["sdpa", "ring"]),
    st.dictionaries(
        st.sampled_from(["chunk_size", "compile", "dynamic"]), TEXTS | st.booleans() | st.integers(0, 2**53)
    ),
)
