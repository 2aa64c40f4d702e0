"""The ``replay`` command: searches on recorded measurements, and how good their choices are."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from autotune.db.errors import StoreError
from autotune.db.results_reader import read_results_file
from autotune.effort import EFFORTS, Level
from autotune.recording import Recording, recordings_of
from autotune.replay import Replayed, replay_each
from autotune.search import Sampler
from autotune.units import format_ms

GOOD = 0.01  # regret that a search is to stay within
NEAR = 0.05  # and the one up to which its measurements are counted


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
    for index, recording in enumerate(recordings):
        click.echo(_heading(recording))
        for sampler, searches in runs.items():
            click.echo(_line(sampler, [search[index] for search in searches]))
    for sampler, searches in runs.items():
        click.echo(_summary(sampler, [each for search in searches for each in search]))


def _heading(recording: Recording) -> str:
    """The cell, and the best that there is to find."""
    problem, optimum = recording.cell.problem, recording.optimum
    assert optimum is not None
    shape = f"{recording.cell.pattern.label}, {problem.key}"
    best = f"{optimum.text}, {format_ms(recording.measured[optimum].time_ms or 0.0)}"
    return f"{shape}: {len(recording.measured)} configurations, optimum {best}"


def _line(sampler: str, searches: Sequence[Replayed]) -> str:
    """One sampler in one cell, over all seeds."""
    regrets = [search.regret for search in searches]
    ((chosen, times),) = Counter(search.chosen for search in searches).most_common(1)
    good = sum(regret <= GOOD for regret in regrets)
    measured = statistics.median(len(search.asked) for search in searches)
    near = statistics.median(search.needed(NEAR) or float("inf") for search in searches)
    return (
        f"    {sampler:<7} regret {statistics.median(regrets):.1%}, worst {max(regrets):.1%}; "
        f"within {GOOD:.0%} {good}/{len(searches)}; measured {measured:g}, {near:g} to come within {NEAR:.0%}; "
        f"chose {times} times {chosen.text if chosen else 'nothing'}"
    )


def _summary(sampler: str, searches: Sequence[Replayed]) -> str:
    good = sum(search.regret <= GOOD for search in searches)
    most = max(len(search.asked) for search in searches)
    return (
        f"{sampler}: within {GOOD:.0%} of the optimum in {good} of {len(searches)} searches "
        f"({good / len(searches):.1%}), with {most} configurations measured at most"
    )
