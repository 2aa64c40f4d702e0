"""How long a call will take, from another length."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from small_suite import ALPHA, SUITE, took

from autotune.cells import Cell
from autotune.db.records import Measurement, Record, Run, Status
from autotune.environment import environment_of
from autotune.forecast import Forecast, Known
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

from .records import failed

CPU = torch.device("cpu")


def cell(length, pattern=None, **fields):
    return Cell(CPU, Problem.self_attention(length, **fields), pattern or Dense())


def known(length, measurement, pattern=None, **fields):
    at = cell(length, pattern, **fields)
    return Known(at.problem, at.pattern, measurement)


def record(length, config, measurement, pattern=None):
    now, at = datetime.now(UTC), cell(length, pattern)
    return Record(
        id=1,
        created_at=now,
        run=Run(command="", started_at=now),
        environment=environment_of(CPU),
        problem=at.problem,
        pattern=at.pattern,
        config=config,
        measurement=measurement,
    )


@pytest.mark.parametrize(("length", "expected_ms"), [(256, 40.0), (512, 160.0), (64, 2.5), (128, 10.0)])
def test_exact_attention_grows_with_the_square_of_the_length(length, expected_ms):
    assert known(128, took(10.0)).predicted_ms(cell(length)) == pytest.approx(expected_ms)


def test_the_median_of_the_repeats_counts():
    measurement = Measurement(status=Status.OK, times_ms=(1.0, 10.0, 100.0))
    assert known(128, measurement).predicted_ms(cell(256)) == pytest.approx(40.0)


def test_longnet_grows_with_its_own_operations_though_the_schedule_differs():
    shorter, longer = (Dilated.longnet(length) for length in (16384, 65536))
    predicted = known(16384, took(10.0), shorter).predicted_ms(cell(65536, longer))
    operations = longer.flops(cell(65536).problem) / shorter.flops(cell(16384).problem)
    assert predicted == pytest.approx(10.0 * operations)
    assert 40.0 < predicted < 45.0  # close to linear: one more branch, and it sees a sixteenth


@pytest.mark.parametrize("status", [Status.CRASHED, Status.OOM, Status.TIMEOUT, Status.UNSUPPORTED])
def test_what_was_not_timed_predicts_nothing(status):
    assert known(128, failed(status)).predicted_ms(cell(256)) is None


def test_nothing_is_predicted_of_an_implementation_that_was_never_tried():
    assert Forecast(SUITE).predicted_ms("Alpha", cell(256)) is None


@pytest.mark.parametrize("lengths", [(64, 128), (128, 64)])
def test_the_longest_length_tried_counts(lengths):
    forecast = Forecast(SUITE)
    for length in lengths:
        forecast.note("Alpha", known(length, took({64: 1.0, 128: 10.0}[length])))
    assert forecast.predicted_ms("Alpha", cell(256)) == pytest.approx(40.0)


def test_of_one_length_the_latest_measurement_counts():
    forecast = Forecast(SUITE)
    for time_ms in (1.0, 10.0):
        forecast.note("Alpha", known(128, took(time_ms)))
    assert forecast.predicted_ms("Alpha", cell(256)) == pytest.approx(40.0)


def test_a_skip_tells_nothing():
    forecast = Forecast(SUITE)
    forecast.note("Alpha", known(64, took(1.0)))
    forecast.note("Alpha", known(128, failed(Status.SKIPPED)))
    assert forecast.predicted_ms("Alpha", cell(128)) == pytest.approx(4.0)


def test_the_time_of_a_wrong_result_tells_nothing():
    forecast = Forecast(SUITE)
    forecast.note("Alpha", known(64, took(1.0)))
    forecast.note("Alpha", known(128, Measurement(status=Status.WRONG_RESULT, times_ms=(0.001,))))
    assert forecast.predicted_ms("Alpha", cell(128)) == pytest.approx(4.0)


def test_records_are_known_under_the_name_of_their_configuration_at_their_length():
    forecast = Forecast(SUITE)
    forecast.learn(
        [
            record(64, Config.of("correct", variant=0), took(1.0)),
            record(64, Config.of("correct", variant=64), took(2.0)),
            record(128, Config.of("correct", variant=128), took(8.0)),
        ]
    )
    assert forecast.predicted_ms("Alpha", cell(128)) == pytest.approx(4.0)
    assert forecast.predicted_ms("Beta", cell(256)) == pytest.approx(32.0)


def test_records_that_are_not_of_the_suite_tell_nothing():
    forecast = Forecast(replace(SUITE, implementations=(ALPHA,)))
    forecast.learn(
        [
            record(64, Config.of("correct", variant=7), took(1.0)),
            record(64, Config.of("correct", variant=0), took(1.0), Dilated.longnet(64)),
        ]
    )
    assert forecast.known == {}
