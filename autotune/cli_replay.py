"""The ``replay`` command: searches on recorded measurements, and how good their choices are."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from autotune.db.errors import StoreError
from autotune.db.results_reader import read_results_file
from autotune.effort import EFFORTS, Level
from autotune.recording import Recording, recordings_of
from autotune.replay import Replayed, replay_each
from autotune.search import Sampler

GOOD = 0.01  # regret that a search is to stay within
NEAR = 0.05  # and the one up to which its first configurations are counted
COLUMNS = (
    "cell",
    ">configs",
    "sampler",
    "chosen, most often",
    ">regret",
    ">worst",
    ">within 1 %",
    ">measured",
    ">to 5 %",
)


def run_replay(
    *, record: Path, seeds: int, samplers: tuple[Sampler, ...], effort: Level, trials: int | None, warm: bool
) -> None:
    """Search every recorded cell with every seed, and print what came of it."""
    results = read_results_file(record)
    recordings = recordings_of(results.records)
    if not recordings:
        raise StoreError(
            f"{record} holds no measurement that is ok; record some with `autotune tune --effort exhaustive`"
        )
    level = EFFORTS[effort] if trials is None else replace(EFFORTS[effort], trials=trials)
    runs = {
        sampler: [
            replay_each(recordings, results.rates, seed=seed, sampler=sampler, effort=level, warm=warm)
            for seed in range(seeds)
        ]
        for sampler in samplers or get_args(Sampler)
    }
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{record}, {seeds} seeds", title_justify="left")
    for column in COLUMNS:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for index, recording in enumerate(recordings):
        for sampler, searches in runs.items():
            table.add_row(*_line(recording, sampler, [search[index] for search in searches]))
        table.add_row("", "", "optimum", recording.optimum.text if recording.optimum else "", "0.0 %", end_section=True)
    console = Console()
    console.print(table)
    for sampler, searches in runs.items():
        console.print(_summary(sampler, [each for search in searches for each in search]), highlight=False)


def _line(recording: Recording, sampler: str, searches: Sequence[Replayed]) -> list[str]:
    """One cell and sampler, over all seeds."""
    regrets = [search.regret for search in searches]
    needed = [len(recording.measured) if (n := search.needed(NEAR)) is None else n for search in searches]
    ((chosen, _),) = Counter(search.chosen for search in searches).most_common(1)
    problem = recording.cell.problem
    shape = f"{problem.direction}{', causal' if problem.causal else ''}"
    return [
        f"{recording.cell.pattern.label}, {shape}, {problem.kv_len:,}",
        str(len(recording.measured)),
        sampler,
        chosen.text if chosen else "nothing ran",
        f"{statistics.median(regrets):.1%}",
        f"{max(regrets):.1%}",
        f"{sum(regret <= GOOD for regret in regrets)}/{len(regrets)}",
        f"{statistics.median(len(search.asked) for search in searches):g}",
        f"{statistics.median(needed):g}",
    ]


def _summary(sampler: str, searches: Sequence[Replayed]) -> str:
    good = sum(search.regret <= GOOD for search in searches)
    most = max(len(search.asked) for search in searches)
    return (
        f"{sampler}: within {GOOD:.0%} of the optimum in {good} of {len(searches)} searches "
        f"({good / len(searches):.1%}), with {most} configurations measured at most"
    )
