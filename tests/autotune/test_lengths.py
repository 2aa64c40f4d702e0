"""Lengths in the wild: a thousand of them compile a handful of graphs, and the next process starts faster."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, LocalWindow, Problem, current

from .records import fill, ok

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning"),
]
STATIC = Config.of("sdpa", backend="auto", compile="default", dynamic=False)
DYNAMIC = Config.of("sdpa", backend="auto", compile="default", dynamic=True)
TILES = Config.of("block_sparse", compile="default", query_block=0)
WINDOW = LocalWindow(0.8, block_size=16)


@pytest.fixture
def database(tmp_path, monkeypatch):
    """At powers of two the graph for one length was the fastest, the one for all lengths the next."""
    path = tmp_path / "t.db"
    problems = [Problem.self_attention(length, heads=2, head_dim=8) for length in (64, 128, 256)]
    entries = [(problem, Dense(), STATIC, ok(1.0)) for problem in problems]
    entries += [(problem, Dense(), DYNAMIC, ok(2.0)) for problem in problems]
    fill(path, [*entries, *((problem, WINDOW, TILES, ok(1.0)) for problem in problems)])
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    torch.compiler.reset()
    counters.clear()
    current.reload()
    yield path
    current.reload()
    torch.compiler.reset()


@pytest.mark.parametrize("pattern", [Dense(), WINDOW], ids=["dense", "local_window"])
def test_a_thousand_lengths_compile_at_most_eight_graphs_and_none_runs_uncompiled(database, pattern):
    draw = random.Random(0)
    configs = set()
    for _ in range(1000):
        length = draw.randint(1, 300)
        x, y, z = (torch.randn(1, 2, length, 8) for _ in range(3))
        out = autotune.attention(x, y, z, pattern=pattern)
        if pattern == Dense():
            assert torch.allclose(out, scaled_dot_product_attention(x, y, z), atol=1e-5)
        configs.add(autotune.explain(x, y, z, pattern=pattern).config)
    assert configs == ({STATIC, DYNAMIC} if pattern == Dense() else {TILES})
    assert counters["stats"]["unique_graphs"] <= 8 * len(configs)
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]


def test_what_is_warmed_up_compiles_no_more(database):
    problems = [Problem.self_attention(length, heads=2, head_dim=8) for length in (50, 64, 90)]
    decisions = autotune.warmup(problems)
    assert [decision.config for decision in decisions] == [STATIC] * 3
    compiled = counters["stats"]["unique_graphs"]
    assert compiled == 2 * len(problems)  # for tensors that lie together, and with heads and length swapped
    for problem in problems:
        x = torch.randn(1, 2, problem.kv_len, 8)  # one tensor thrice needs no graph of its own
        assert torch.allclose(autotune.attention(x, x, x), scaled_dot_product_attention(x, x, x), atol=1e-5)
        assert autotune.explain(x, x, x).config == STATIC
    assert counters["stats"]["unique_graphs"] == compiled


START = """
import json, time, torch, autotune
from torch._dynamo.utils import counters
began = time.process_time()
autotune.warmup([autotune.Problem.self_attention(64, heads=2, head_dim=8)])
print(json.dumps([time.process_time() - began, counters["inductor"]["fxgraph_cache_hit"]]))
"""


def test_a_second_process_starts_faster(database, tmp_path):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}

    def start():
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=environment)
        return json.loads(done.stdout)

    (first_s, no_hit), (second_s, hits) = start(), start()
    print(f"first process {first_s:.2f} s, second {second_s:.2f} s of processor time")
    assert (no_hit, hits) == (0, 2)  # both layouts
    assert second_s < first_s
