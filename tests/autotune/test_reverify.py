"""After an upgrade: what other software decided is raced again, the fastest few of it and nothing else."""

from dataclasses import replace

import planted
import pytest
import torch
from stand_in import Recorder, StandIn

from autotune.cells import Cell, Workload
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.prior import LEADERS
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.tuning import tune

from .command_line import refused
from .command_line import run as command

CPU = torch.device("cpu")
HERE = replace(environment_of(CPU), threads=1)  # as in these tests
BEFORE = replace(HERE, torch_version="0.4")
ELSEWHERE = replace(BEFORE, device_name="Another CPU")
CELLS = Workload(lengths=(128, 64), patterns=("dense",), heads=2, head_dim=16).cells(CPU)
VARIANTS = [Config.of("many", variant=number) for number in range(planted.VARIANTS)]


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """Answers at once; the last variants are the fastest."""
    monkeypatch.setattr("autotune.tuning.STRATEGIES", {"many": planted.Many()})
    monkeypatch.setattr("autotune.tuning.Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr(StandIn, "contests", [])
    monkeypatch.setattr(StandIn, "races", {number: 20.0 - number for number in range(planted.VARIANTS)})
    monkeypatch.setattr(StandIn, "answers", {"many": lambda candidate: measured(candidate.config)})
    return StandIn


def measured(config):
    time_ms = 20.0 - config.integer("variant", 0)
    return Measurement(status=Status.OK, times_ms=(time_ms,), peak_memory_bytes=10, rel_error=0.0)


@pytest.fixture
def tuned(empty_database):
    """Give a cell measurements of every variant, and a decision, taken in an environment."""

    def tuned(cell: Cell, environment):
        with Store.open(empty_database) as store:
            run_id = store.begin_run("autotune tune")
            ids = [
                store.add(run_id, environment, cell.problem, cell.pattern, config, measured(config))
                for config in VARIANTS
            ]
            store.decide(environment, cell.problem, cell.pattern, VARIANTS[-1], ids[-1], 0.1, len(ids))

    tuned.database = empty_database
    return tuned


def reverify(database, **options):
    return tune(device="cpu", db=database, reverify=True, observer=Recorder(), **options)


def test_the_default_and_the_fastest_few_of_each_stale_cell_are_measured_and_decided(tuned, worker):
    for cell in CELLS:
        tuned(cell, BEFORE)
    results = reverify(tuned.database)
    assert [result.cell.problem.kv_len for result in results] == [64, 128]
    expected = {VARIANTS[0], *VARIANTS[-LEADERS:]}
    for result in results:
        assert set(result.tried) == expected
        assert result.best == VARIANTS[-1]
    assert len(worker.asked) == 2 * len(expected)
    with Store.open(tuned.database) as store:
        choices = store.choices(environment_fingerprint=HERE.fingerprint)
        assert [choice.config for choice in choices] == [VARIANTS[-1]] * 2
        assert len(store.choices()) == 4  # what other software decided is kept


def test_what_has_been_verified_is_not_verified_again(tuned, worker):
    tuned(CELLS[0], BEFORE)
    reverify(tuned.database)
    worker.asked.clear()
    assert reverify(tuned.database) == []
    assert worker.asked == []


def test_other_devices_and_cells_decided_here_are_left_alone(tuned, worker):
    tuned(CELLS[0], ELSEWHERE)
    tuned(CELLS[1], BEFORE)
    tuned(CELLS[1], HERE)
    assert reverify(tuned.database) == []


def test_each_dtype_is_held_against_its_own_peak(tuned, worker):
    other = replace(CELLS[0], problem=replace(CELLS[0].problem, dtype="float64"))
    tuned(CELLS[0], BEFORE)
    tuned(other, BEFORE)
    assert len(reverify(tuned.database)) == 2
    with Store.open(tuned.database) as store:
        assert sorted(rate.dtype for rate in store.rates()) == ["float32", "float64"]


def test_trials_bound_what_is_raced(tuned):
    tuned(CELLS[0], BEFORE)
    (result,) = reverify(tuned.database, trials=2)
    assert list(result.tried) == [VARIANTS[0], VARIANTS[-1]]


def test_on_the_command_line(tuned, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tuned(CELLS[0], BEFORE)
    words = ("tune", "--device", "cpu", "--reverify", "--db", tuned.database)
    first = command(*words)
    assert first.exit_code == 0
    assert "[1/1] dense" in first.stdout
    again = command(*words)
    assert "Nothing to verify" in again.stdout
    refused(command(*words, "--lengths", "64"), "--reverify takes its cells from the database; leave out --lengths")


def test_the_pattern_is_the_stored_one(tuned):
    tuned(CELLS[0], BEFORE)
    (result,) = reverify(tuned.database)
    assert result.cell.pattern == Dense()
