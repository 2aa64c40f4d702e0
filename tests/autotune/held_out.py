"""Held-out lengths: what choosing by the lengths around costs against having tuned that very length.

`python tests/autotune/held_out.py FILE [LENGTH ...]` measures every uncompiled configuration of each cell in turn,
round by round, and adds the cells to the recording that the test reads.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from autotune.candidate import _call
from autotune.db.records import Choice, Environment, Measurement, Record, Run, Status
from autotune.decide import best_config
from autotune.decision import Decision
from autotune.environment import environment_of
from autotune.inputs import make_inputs
from autotune.selector import Selector
from autotune.strategies.catalog import STRATEGIES, build, default_config, supported
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import DIRECTIONS, Problem

CPU = torch.device("cpu")
TUNED, HELD_OUT = (512, 1024, 2048, 4096), (640, 900, 1400, 1800, 3000)
PATTERNS = (lambda length: Dense(), Dilated.longnet, lambda length: LocalWindow(0.9))
ROUNDS = 20
PLENTY = 1 << 40
TAKEN = datetime(2026, 11, 23, tzinfo=UTC)


@dataclass(frozen=True)
class HeldOut:
    """A cell as it was measured: of each configuration the time in every round."""

    problem: Problem
    pattern: Pattern
    times_ms: dict[Config, list[float]]

    def measurements(self) -> dict[Config, Measurement]:
        """As a search would store them; the memory is the estimate's."""
        return {
            config: Measurement(
                status=Status.OK,
                times_ms=tuple(times),
                peak_memory_bytes=STRATEGIES[config.strategy].memory_bytes(self.problem, self.pattern, config),
                race=f"{self.problem.key} {self.pattern.key}",
            )
            for config, times in self.times_ms.items()
        }

    def regret(self, config: Config) -> float:
        """Its time / the best one's - 1; one half of the rounds says which is the best, the other half scores both."""
        best = min(self.times_ms, key=lambda one: statistics.median(self.times_ms[one][0::2]))
        scores = {one: statistics.median(times[1::2]) for one, times in self.times_ms.items()}
        return scores[config] / scores[best] - 1


def cells(lengths):
    for length in lengths:
        for direction in DIRECTIONS:
            for causal in (False, True):
                problem = Problem.self_attention(length, heads=2, direction=direction, causal=causal)
                for pattern_of in PATTERNS:
                    yield problem, pattern_of(length)


def configs_of(problem: Problem, pattern: Pattern) -> list[Config]:
    """Every uncompiled configuration of the space at this length, and of those at the tuned lengths around it."""
    below = max((length for length in TUNED if length < problem.kv_len), default=problem.kv_len)
    above = min((length for length in TUNED if length > problem.kv_len), default=problem.kv_len)
    around = [] if problem.kv_len in TUNED else [below, above]
    problems = [problem, *(replace(problem, query_len=length, kv_len=length) for length in around)]
    spaces = [strategy.space(one, pattern) for one in problems for strategy in supported(problem, pattern).values()]
    return list(dict.fromkeys(c for space in spaces for c in space if c.string("compile", "off") == "off"))


def measure(problem: Problem, pattern: Pattern) -> dict[Config, list[float]]:
    """Every uncompiled configuration, in an order of its own each round."""
    inputs, configs = make_inputs(problem, CPU, torch.arange(1)), configs_of(problem, pattern)
    calls = {config: partial(_call, build(problem, pattern, config), inputs) for config in configs}
    times = {config: [] for config in configs}
    for call in calls.values():
        call()
    for number in range(ROUNDS):
        for config in random.Random(number).sample(configs, len(configs)):
            times[config].append(time_once(calls[config]))
    return times


def time_once(call) -> float:
    """Milliseconds of one call on one thread, as its clock counts them: other programs on the machine cost none."""
    start = time.process_time_ns()
    call()
    return (time.process_time_ns() - start) / 1e6


def record(path: Path, lengths) -> None:
    """Add the cells of some lengths to a recording."""
    torch.set_num_threads(1)
    here = asdict(environment_of(CPU))
    recorded = json.loads(path.read_text()) if path.exists() else {"environment": here, "cells": []}
    if recorded["environment"] != here:
        raise SystemExit(f"{path} was recorded elsewhere; name another file")
    found = [cell for cell in recorded["cells"] if cell["problem"]["kv_len"] not in lengths]
    for problem, pattern in cells(lengths):  # written as it grows, for a run may be cut short
        times = {config.json: [float(f"{ms:.4g}") for ms in each] for config, each in measure(problem, pattern).items()}
        found.append({"problem": asdict(problem), "pattern": pattern.key, "times_ms": times})
        whole = {"environment": here, "cells": found}
        path.write_text(json.dumps(whole, separators=(",", ":")).replace('{"problem"', '\n{"problem"') + "\n")


def read(path: Path) -> tuple[Environment, list[HeldOut]]:
    """What was recorded, and where."""
    recorded = json.loads(path.read_text())
    return Environment(**recorded["environment"]), [
        HeldOut(
            Problem(**cell["problem"]),
            pattern_from_key(cell["pattern"]),
            {Config.from_json(text): times for text, times in cell["times_ms"].items()},
        )
        for cell in recorded["cells"]
    ]


def tuned_selector(environment: Environment, tuned: list[HeldOut]) -> Selector:
    """What knows of some cells what a search of them stores: every measurement, and what it settles on."""
    records, choices = [], []
    for cell in tuned:
        measurements = cell.measurements()
        here = {"created_at": TAKEN, "environment": environment, "problem": cell.problem, "pattern": cell.pattern}
        run = Run(command="held_out", started_at=TAKEN)
        records += [
            Record(id=0, run=run, config=config, measurement=each, **here) for config, each in measurements.items()
        ]
        default = default_config(cell.problem, cell.pattern)
        best = best_config(measurements, PLENTY, defaults={default}, raced=True)
        choices.append(
            Choice(config=best.config, measurement_id=0, margin=best.margin, candidates=len(measurements), **here)
        )
    return Selector(environment, records, choices)


def regrets(path: Path) -> Iterator[tuple[HeldOut, Decision, float]]:
    """For each cell that was not tuned and has alternatives: what is chosen, and how much slower than the best."""
    environment, everything = read(path)
    choose = tuned_selector(environment, [one for one in everything if one.problem.kv_len in TUNED]).choose
    for cell in everything:
        if cell.problem.kv_len in HELD_OUT and len(cell.times_ms) > 1:
            decision = choose(cell.problem, [cell.pattern], PLENTY)
            yield cell, decision, cell.regret(decision.config)


def table(rows) -> str:
    """The regrets as a person reads them."""
    return "\n".join(
        f"{cell.problem.key:50} {cell.pattern.label:34.34} {decision.source:12} {decision.config.text:70} {regret:6.1%}"
        for cell, decision, regret in rows
    )


if __name__ == "__main__":
    record(Path(sys.argv[1]), [int(length) for length in sys.argv[2:]] or (*TUNED, *HELD_OUT))
