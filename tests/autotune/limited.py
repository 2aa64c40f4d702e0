"""Attention under a limit that the system enforces: a program for a process of its own.

Measures configurations at a few problems, stores them, then draws problems and limits: prints what became of each.
"""

import json
import math
import random
import sys
import warnings
from functools import partial
from pathlib import Path

import torch

import autotune
from autotune import Config, Dense, Dilated, LocalWindow, Problem, current
from autotune.binding import FREE_MEMORY_SHARE
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.decide import best_config
from autotune.environment import environment_of
from autotune.memory import lift_limit, limit_growth, watch_memory
from autotune.timing import time_repeats

CPU = torch.device("cpu")
DENSE = Dense()
WINDOW = LocalWindow(0.8, block_size=64)
CELLS = [
    *((Problem.self_attention(length, heads=4), DENSE) for length in (512, 768, 1024, 1536)),
    (Problem.self_attention(1024, heads=4, causal=True), DENSE),
    (Problem.self_attention(768, heads=4, dtype="float64"), DENSE),
    (Problem.self_attention(768, heads=4, direction="training"), DENSE),
    (Problem(heads=4, kv_heads=2, query_len=300, kv_len=2048, batch=2), DENSE),
    (Problem.self_attention(4096, heads=2), Dilated.longnet(4096)),
    (Problem.self_attention(4096, heads=2, causal=True), WINDOW),
    (Problem.self_attention(2048, heads=2, direction="training"), WINDOW),
]
CONFIGS = {
    "dense": (
        Config.of("sdpa", backend="auto", compile="off"),
        Config.of("sdpa", backend="math", compile="off"),
        Config.of("ring", chunk_size=256, compile="off", query_block=0),
        Config.of("ring", chunk_size=128, compile="off", query_block=256),
    ),
    "dilated": (
        Config.of("dilated", compile="off", query_block=0),
        Config.of("dilated", compile="off", query_block=512),
        Config.of("ring", chunk_size=1024, compile="off", query_block=0),
    ),
    "local_window": (
        Config.of("block_sparse", compile="off", query_block=0),
        Config.of("block_sparse", compile="off", query_block=512),
    ),
}


def tensors(problem):
    shapes = [
        (problem.heads, problem.query_len),
        (problem.kv_heads, problem.kv_len),
        (problem.kv_heads, problem.kv_len),
    ]
    made = [torch.randn(problem.batch, *shape, problem.head_dim, dtype=problem.torch_dtype) for shape in shapes]
    return [tensor.requires_grad_(problem.training) for tensor in made]


def step(attend, inputs):
    """A forward pass, and a backward pass where there are gradients."""
    out = attend(*inputs)
    return torch.autograd.grad(out, inputs, torch.ones_like(out)) if out.requires_grad else out


def measure(problem, pattern, config):
    """As the worker does: peak of a call that has run before, then repeats."""
    attend = autotune.strategies.catalog.build(problem, pattern, config)
    inputs = tensors(problem)
    step(attend, inputs)
    _, peak = watch_memory(lambda: step(attend, inputs), CPU)
    times = time_repeats(lambda: step(attend, inputs), CPU, budget_s=0.03)
    return Measurement(status=Status.OK, times_ms=times, peak_memory_bytes=peak)


def fill(path):
    """Measure every cell, and store it as `tune` does: each measurement, and what it settles on."""
    here = environment_of(CPU)
    known = {cell: {config: measure(*cell, config) for config in CONFIGS[cell[1].kind]} for cell in CELLS}
    with Store.open(path) as store:
        run = store.begin_run("limited")
        for cell, measurements in known.items():
            ids = {config: store.add(run, here, *cell, config, one) for config, one in measurements.items()}
            best = best_config(measurements, 1 << 40, CONFIGS[cell[1].kind][:1])
            store.decide(here, *cell, best.config, ids[best.config], best.margin, len(ids))
    return known


def attempt(cell, measurements, limit_bytes):
    """One call under the limit: what ran, and what should have."""
    problem, pattern = cell
    inputs = tensors(problem)
    options = {"is_causal": problem.causal, "enable_gqa": problem.group_size > 1, "pattern": pattern}
    room = FREE_MEMORY_SHARE * limit_bytes
    fitting = {config: m.time_ms for config, m in measurements.items() if m.peak_memory_bytes <= room}
    current.reload()
    tiny = torch.zeros(1, 1, 4, 8)
    autotune.attention(tiny, tiny, tiny)  # reads the database before the limit
    torch.randn(8)
    limit_growth(limit_bytes)
    try:
        step(partial(autotune.attention, **options), inputs)
        chosen = autotune.explain(*inputs, **options).config
    except (autotune.AutotuneError, RuntimeError, MemoryError) as error:
        chosen = str(error)
    finally:
        lift_limit()
    best_ms = min(fitting.values(), default=math.inf)
    ran_ms = measurements[chosen].time_ms if chosen in measurements else math.inf
    return {
        "cell": f"{problem.key} {pattern.label}",
        "fits": len(fitting),
        "failed": isinstance(chosen, str),
        "excess": ran_ms / best_ms - 1 if fitting else 0.0,
        "chosen": chosen if isinstance(chosen, str) else chosen.strategy,
    }


def main(path, count):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known, draw = fill(Path(path)), random.Random(0)
    results = []
    for _ in range(count):
        cell = draw.choice(CELLS)
        peaks = [m.peak_memory_bytes for m in known[cell].values()]
        limit = int(math.exp(draw.uniform(math.log(min(peaks) * 0.8), math.log(max(peaks) * 2.5))))
        results.append(attempt(cell, known[cell], limit))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
