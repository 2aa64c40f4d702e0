"""Attention under a limit that the system enforces: a program for a process of its own.

Measures configurations at a few problems, stores them, then draws problems and limits: prints what became of each.
"""

import json
import math
import random
import sys
import warnings
from pathlib import Path

import torch

import autotune
from autotune import Config, Dense, Problem, runtime
from autotune.binding import FREE_MEMORY_SHARE
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.memory import lift_limit, limit_growth, watch_memory
from autotune.timing import time_repeats

CPU = torch.device("cpu")
LENGTHS = (512, 768, 1024, 1536)
CONFIGS = (
    Config.of("sdpa", backend="auto", compile="off"),
    Config.of("sdpa", backend="math", compile="off"),
    Config.of("ring", chunk_size=256, compile="off", query_block=0),
    Config.of("ring", chunk_size=128, compile="off", query_block=256),
)


def tensors(problem):
    return [torch.randn(1, problem.heads, problem.kv_len, problem.head_dim) for _ in range(3)]


def measure(problem, config):
    """As the worker does: peak of a call that has run before, then repeats."""
    attend = autotune.strategies.catalog.build(problem, Dense(), config)
    inputs = tensors(problem)
    attend(*inputs)
    _, peak = watch_memory(lambda: attend(*inputs), CPU)
    times = time_repeats(lambda: attend(*inputs), CPU, budget_s=0.03)
    return Measurement(status=Status.OK, times_ms=times, peak_memory_bytes=peak)


def fill(path):
    problems = [Problem.self_attention(length, heads=4) for length in LENGTHS]
    known = {problem: {config: measure(problem, config) for config in CONFIGS} for problem in problems}
    with Store.open(path) as store:
        run = store.begin_run("limited")
        for problem, measurements in known.items():
            for config, measurement in measurements.items():
                store.add(run, environment_of(CPU), problem, Dense(), config, measurement)
    return known


def attempt(problem, measurements, limit_bytes):
    """One call under the limit: what ran, and what should have."""
    inputs = tensors(problem)
    room = FREE_MEMORY_SHARE * limit_bytes
    fitting = {config: m.time_ms for config, m in measurements.items() if m.peak_memory_bytes <= room}
    runtime.reload()
    tiny = torch.zeros(1, 1, 4, 8)
    autotune.attention(tiny, tiny, tiny)  # reads the database before the limit
    torch.randn(8)
    limit_growth(limit_bytes)
    try:
        autotune.attention(*inputs)
        chosen = autotune.explain(*inputs).config
    except autotune.AutotuneError as error:
        chosen = None if not fitting else str(error)
    finally:
        lift_limit()
    best_ms = min(fitting.values(), default=math.inf)
    ran_ms = measurements[chosen].time_ms if chosen in measurements else math.inf
    return {
        "fits": len(fitting),
        "failed": chosen is None or isinstance(chosen, str),
        "excess": ran_ms / best_ms - 1 if fitting else 0.0,
        "what": str(chosen),
    }


def main(path, count):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known, draw = fill(Path(path)), random.Random(0)
    results = []
    for _ in range(count):
        problem = draw.choice(list(known))
        peaks = [m.peak_memory_bytes for m in known[problem].values()]
        limit = int(math.exp(draw.uniform(math.log(min(peaks) * 0.8), math.log(max(peaks) * 1.6))))
        results.append(attempt(problem, known[problem], limit))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
