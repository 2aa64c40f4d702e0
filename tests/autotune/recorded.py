"""Records to search in tests: the real one, and planted ones whose best is known."""

import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from autotune.cells import Cell
from autotune.db.records import Measurement, Rate, Status
from autotune.db.results_reader import read_results_file
from autotune.environment import environment_of
from autotune.recording import Recording, recordings_of
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

RECORD = Path(__file__).parents[1] / "data" / "search_record.json"  # by `make record`
CPU = torch.device("cpu")
HERE = environment_of(CPU)  # once: the threads of a test are not those of the import of its module
LENGTH = 4096


@lru_cache
def real() -> tuple[list[Recording], list[Rate]]:
    """The cells of the shipped record, and the rates of the device."""
    results = read_results_file(RECORD)
    return recordings_of(results.records), list(results.rates)


def worst_first(recording: Recording) -> Recording:
    """The same measurements, but the slowest configuration of each strategy is its default."""
    slowest_first = sorted(recording.measured, key=lambda config: -(recording.measured[config].time_ms or 0.0))
    return replace(recording, measured={config: recording.measured[config] for config in slowest_first})


def planted(medians_ms: dict[Config, float], *, noise=0.03, length=LENGTH, seed=0, repeats=20) -> Recording:
    """A cell with these medians, log-normal noise, and memory in the order of mention."""
    generator = random.Random(seed)
    measured = {
        config: Measurement(
            status=Status.OK,
            times_ms=tuple(median_ms * generator.lognormvariate(0, noise) for _ in range(repeats)),
            peak_memory_bytes=number,
            predicted_memory_bytes=number,
        )
        for number, (config, median_ms) in enumerate(medians_ms.items(), start=1)
    }
    return Recording(HERE, Cell(CPU, Problem.self_attention(length), Dense()), measured)


def bowl(chunks=8, blocks=6, best=(5, 2), scale=1.0) -> dict[Config, float]:
    """Two strategies; times grow with the distance from the best values of one, and the other is far slower."""
    ring = {
        Config.of("ring", chunk=chunk, block=block): scale
        * (1 + 0.1 * abs(chunk - best[0]) + 0.15 * abs(block - best[1]))
        for chunk in range(chunks)
        for block in range(blocks)
    }
    return {Config.of("plain", variant=0): 3.0 * scale, Config.of("plain", variant=1): 4.0 * scale, **ring}
