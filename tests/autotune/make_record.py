"""Record real measurements for the tests of the search: `make record`, on a quiet machine, about ten minutes.

Four functions at three lengths, every configuration of spaces wider than those that `tune` searches on a CPU: more
chunk sizes, query blocks and query tiles, none compiled but SDPA's. An interrupted recording is taken up again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from autotune import tuning
from autotune.cells import Workload
from autotune.db.records import Measurement, Record, Results
from autotune.db.results_writer import results_text
from autotune.db.store import Store
from autotune.effort import EFFORTS
from autotune.output import write_output
from autotune.progress import Progress
from autotune.strategies import block_sparse, ring
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.tile_strategy import TileStrategy
from autotune.units import format_bytes

RECORD = Path(__file__).parents[1] / "data" / "search_record.json"
LENGTHS = (2048, 3072, 4096)
DILATED = Workload(lengths=LENGTHS, patterns=("dilated",), segment_lengths=(512, 2048), dilation_rates=(1, 4), heads=1)
WORKLOADS = {
    "dense": replace(DILATED, patterns=("dense",), segment_lengths=None, dilation_rates=None),
    "local_window": replace(
        DILATED, patterns=("local_window",), sparsities=(0.8,), segment_lengths=None, dilation_rates=None
    ),
    "dilated": DILATED,
    "dilated_training": replace(DILATED, direction="training"),
}
QUERY_BLOCKS = (0, 256, 512, 1024, 1536, 2048)  # the first is what `tune` begins with at these lengths
CHUNK_SIZES = (1024, 256, 512, 1536, 2048)
QUERY_TILES = (1024, 0, 128, 256, 512, 2048)
# All that may win are timed in turn, so that the optimum is not who was measured in a quiet minute.
EFFORT = replace(EFFORTS["exhaustive"], timing_budget_s=0.1, finalists=1000, race_s=600.0, rounds=20, extra_rounds=0)
REPEATS = 20  # of each configuration that are kept
DIGITS = 4


def wide_space(self: TileStrategy, problem: Problem, pattern: Pattern) -> Space:
    """In place of `TileStrategy.space`."""
    blocks = Choice("query_block", tuple(size for size in QUERY_BLOCKS if size < problem.query_len))
    return Space(self.name, (*self.choices(problem, pattern), blocks))


def record(database: Path, names: Sequence[str]) -> None:
    """Measure everything there is, and store it."""
    torch.set_num_threads(1)  # one core of a shared machine is quieter than all of them
    TileStrategy.space = wide_space
    ring.CHUNK_SIZES = CHUNK_SIZES
    block_sparse.QUERY_TILES = QUERY_TILES
    tuning.EFFORTS = {**EFFORTS, "exhaustive": EFFORT}
    for name in names:
        with Progress(Console()) as progress:
            tuning.tune(
                WORKLOADS[name],
                device="cpu",
                strategies=["sdpa", "dilated", "block_sparse", "ring"],
                effort="exhaustive",
                db=database,
                observer=progress,
                command="make record",
            )


def condensed(results: Results) -> Results:
    """The latest measurement of each configuration, in the order of the first ones, to a few digits."""
    latest: dict[tuple[Problem, Pattern, object], Record] = {}
    for each in results.records:
        cell = (each.problem, each.pattern, each.config)
        latest[cell] = replace(latest.get(cell, each), measurement=_shortened(each.measurement))
    return Results(records=list(latest.values()), rates=results.rates)


def _shortened(measurement: Measurement) -> Measurement:
    times_ms = tuple(_rounded(ms) for ms in measurement.times_ms[:REPEATS])
    unread = dict.fromkeys(("max_abs_error", "compile_s", "gate_s", "timing_s"))  # by a replay
    return replace(measurement, times_ms=times_ms, rel_error=_rounded(measurement.rel_error), **unread)


def _rounded(value):
    return None if value is None else float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path, help="where the measurements are kept in full")
    parser.add_argument("names", nargs="*", default=list(WORKLOADS), help="what to measure; the record holds all")
    arguments = parser.parse_args()
    arguments.database.parent.mkdir(exist_ok=True)
    record(arguments.database, arguments.names)
    with Store.open(arguments.database, read_only=True) as store:
        RECORD.parent.mkdir(exist_ok=True)
        write_output(RECORD, results_text(condensed(store.results())))
    print(f"{RECORD}: {format_bytes(RECORD.stat().st_size)}")
