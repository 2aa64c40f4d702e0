"""At lengths that were not tuned, the choice is nearly as fast as tuning that very length would make it."""

import statistics
from pathlib import Path

import pytest

from .held_out import HELD_OUT, regrets, table

RECORDING = Path(__file__).parents[1] / "data" / "held_out.json"  # by `python tests/autotune/held_out.py`
MEDIAN, P95 = 0.03, 0.10


@pytest.fixture(scope="module")
def rows():
    return list(regrets(RECORDING))


def test_between_tuned_lengths_the_regret_is_small(rows):
    print(table(rows))
    values = sorted(regret for *_, regret in rows)
    median, p95 = statistics.median(values), statistics.quantiles(values, n=20)[-1]
    print(f"{len(values)} cells: median {median:.1%}, p95 {p95:.1%}, worst {values[-1]:.1%}")
    assert len(values) >= 30
    assert median <= MEDIAN
    assert p95 <= P95


def test_every_choice_was_made_from_other_lengths(rows):
    assert {cell.problem.kv_len for cell, *_ in rows} == set(HELD_OUT)
    sources = [decision.source for _, decision, _ in rows]
    assert set(sources) == {"interpolated", "neighbour"}  # the latter where a pattern has other choices at one length
    assert sources.count("interpolated") >= 0.9 * len(sources)
    assert len({decision.config.strategy for _, decision, _ in rows}) > 1
