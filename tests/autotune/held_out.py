"""Held-out lengths: what choosing by the lengths around costs against having tuned that very length.

`python tests/autotune/held_out.py FILE` measures every uncompiled configuration of each cell in turn, round by round,
and writes the recording that the test reads.
"""

import json
import statistics
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from autotune.candidate import _call
from autotune.db.records import Environment, Measurement, Record, Run, Status
from autotune.environment import environment_of
from autotune.inputs import make_inputs
from autotune.selector import Selector
from autotune.strategies.catalog import build, supported
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import DIRECTIONS, Problem
from autotune.timing import race

CPU = torch.device("cpu")
TUNED, HELD_OUT = (512, 1024, 2048), (640, 768, 900, 1280, 1536, 1800)
PATTERNS = {"dense": lambda n: Dense(), "dilated": Dilated.longnet, "window": lambda n: LocalWindow(0.9)}
ROUNDS = 7


def cells():
    for length in (*TUNED, *HELD_OUT):
        for direction in DIRECTIONS:
            for causal in (False, True):
                problem = Problem.self_attention(length, heads=2, direction=direction, causal=causal)
                for pattern_of in PATTERNS.values():
                    yield problem, pattern_of(length)


def record(path):
    torch.set_num_threads(1)
    rows = []
    for problem, pattern in cells():
        inputs = make_inputs(problem, CPU, torch.arange(1))
        configs = [
            config
            for strategy in supported(problem, pattern).values()
            for config in strategy.space(problem, pattern)
            if config.string("compile", "off") == "off"
        ]
        calls = [partial(_call, build(problem, pattern, config), inputs) for config in configs]
        for call in calls:
            call()
        times = race(calls, CPU, rounds=ROUNDS, budget_s=30.0)
        rows += [
            {"problem": asdict(problem), "pattern": pattern.key, "config": config.json, "times_ms": list(ms)}
            for config, ms in zip(configs, times, strict=True)
        ]
    Path(path).write_text(json.dumps({"environment": asdict(environment_of(CPU)), "rows": rows}))


def records(path):
    """The recording as the database would give it."""
    recorded = json.loads(Path(path).read_text())
    environment = Environment(**recorded["environment"])
    taken = datetime(2026, 11, 23, tzinfo=UTC)
    return environment, [
        Record(
            id=number,
            created_at=taken,
            run=Run(command="held_out", started_at=taken),
            environment=environment,
            problem=Problem(**row["problem"]),
            pattern=pattern_from_key(row["pattern"]),
            config=Config.from_json(row["config"]),
            measurement=Measurement(status=Status.OK, times_ms=tuple(row["times_ms"]), peak_memory_bytes=1),
        )
        for number, row in enumerate(recorded["rows"])
    ]


def regrets(path):
    """For each held-out cell: the problem, the pattern, the configuration chosen, and its time / the best time - 1."""
    environment, everything = records(path)
    tuned = [one for one in everything if one.problem.kv_len in TUNED]
    choose = Selector(environment, tuned).choose
    held_out = {(one.problem, one.pattern) for one in everything if one.problem.kv_len in HELD_OUT}
    for problem, pattern in sorted(held_out, key=lambda cell: (cell[1].label, cell[0].key)):
        times = {
            one.config: one.measurement.time_ms
            for one in everything
            if (one.problem, one.pattern) == (problem, pattern)
        }
        if len(times) > 1:
            chosen = choose(problem, [pattern], 1 << 40)
            yield problem, pattern, chosen, times[chosen.config] / min(times.values()) - 1


def table(path):
    """The regrets as a person reads them."""
    rows = list(regrets(path))
    values = sorted(regret for *_, regret in rows)
    lines = [f"{p.key:55} {q.label:34.34} {d.config.text:62} {r:7.1%}" for p, q, d, r in rows]
    summary = f"{len(values)} cells: median {statistics.median(values):.1%}, p95 {values[int(0.95 * len(values))]:.1%}"
    return "\n".join([*lines, summary])


if __name__ == "__main__":
    record(sys.argv[1])
    print(table(sys.argv[1]))
