from dataclasses import replace
from datetime import UTC, datetime

import planted
import pytest
import torch

from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Run, Status
from autotune.effort import EFFORTS
from autotune.environment import environment_of
from autotune.skip_rules import SkipRules
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

CPU = torch.device("cpu")
CONFIG = Config.of("correct", variant=0)
CELL = Cell(CPU, Problem.self_attention(4096, heads=2, head_dim=16), Dense())
PREDICTED = planted.CORRECT.memory_bytes(CELL.problem, CELL.pattern, CONFIG)


def shorter(length=2048, status=Status.OOM, pattern=CELL.pattern, config=CONFIG, **changes):
    now = datetime.now(UTC)
    return Record(
        id=1,
        created_at=now,
        run=Run(command="", started_at=now),
        environment=environment_of(CPU),
        problem=replace(CELL.problem, query_len=length, kv_len=length, **changes),
        pattern=pattern,
        config=config,
        measurement=Measurement(status=status),
    )


def verdict(*records, cell=CELL, limit=PREDICTED, config=CONFIG, effort=EFFORTS["quick"], defaults=()):
    return SkipRules.of(cell, limit, effort, defaults, records).verdict(planted.CORRECT, config)


def test_what_fits_and_never_failed_runs():
    assert verdict() is None


def test_a_prediction_over_the_limit_is_skipped_with_both_figures():
    skipped = verdict(limit=PREDICTED - 1)
    assert skipped.status is Status.SKIPPED
    assert skipped.reason == "predicted peak memory 512.00 KiB (estimated) is over the limit, 512.00 KiB"
    assert skipped.predicted_memory_bytes == PREDICTED


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT])
def test_what_was_too_much_at_a_shorter_length_is_skipped(status):
    skipped = verdict(shorter(status=status))
    assert skipped.status is Status.SKIPPED
    assert skipped.reason == f"{status} already at length 2,048; --force tries again"


@pytest.mark.parametrize("status", [status for status in Status if status not in (Status.OOM, Status.TIMEOUT)])
def test_other_outcomes_at_a_shorter_length_say_nothing(status):
    assert verdict(shorter(status=status)) is None


@pytest.mark.parametrize(
    "other",
    [
        shorter(4096),
        shorter(8192),
        shorter(heads=4, kv_heads=2),
        shorter(dtype="float16"),
        shorter(causal=True),
        shorter(direction="training"),
        shorter(pattern=Dilated((64,), (1,))),
        shorter(config=Config.of("correct", variant=1)),
    ],
    ids=["same length", "longer", "heads", "dtype", "causal", "training", "pattern", "config"],
)
def test_failures_of_something_else_say_nothing(other):
    assert verdict(other) is None


def test_a_schedule_that_grew_with_the_length_is_the_same_kind_of_pattern():
    cell = replace(CELL, pattern=Dilated.longnet(4096))
    assert verdict(shorter(pattern=Dilated.longnet(2048)), cell=cell).status is Status.SKIPPED


def timed(ms, variant=0, length=2048, status=Status.OK):
    record = shorter(length, status, config=Config.of("correct", variant=variant))
    return replace(record, measurement=Measurement(status=status, times_ms=(ms,)))


@pytest.mark.parametrize(("ms", "runs"), [(2499.0, True), (2501.0, False)])
def test_calls_that_would_overrun_the_deadline_are_predicted_from_the_shorter_length(ms, runs):
    skipped = verdict(timed(ms))  # twice the length is four times the work: three calls in 30 s
    assert (skipped is None) is runs
    if skipped:
        assert skipped.reason == "predicted 10 s a call, from length 2,048; the limit is 10 s"


@pytest.mark.parametrize(("ms", "defaults", "runs"), [(1.9, (), True), (2.1, (), False), (2.1, (CONFIG,), True)])
def test_what_was_far_slower_than_the_best_is_skipped_unless_it_is_a_default(ms, defaults, runs):
    skipped = verdict(timed(ms), timed(1.0, variant=1), defaults=defaults)
    assert (skipped is None) is runs
    if skipped:
        assert skipped.reason == "2.1 times slower than the best at length 2,048"


def test_the_longest_of_the_shorter_lengths_counts():
    assert verdict(timed(9.0, length=1024), timed(1.0, variant=1, length=1024), timed(1.0)) is None


def test_the_time_of_a_wrong_result_makes_nothing_slow_and_predicts_nothing():
    impossible = timed(0.001, variant=1, status=Status.WRONG_RESULT)
    assert verdict(timed(1.0), impossible) is None
    assert verdict(timed(1e6, status=Status.WRONG_RESULT)) is None
