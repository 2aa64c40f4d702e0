"""Several processes tune on one database: each cell is searched once, and what a dead one left is finished."""

import os
import subprocess
import sys
import time
from collections import defaultdict

import pytest
import torch
from stand_in import Recorder

from autotune.cells import Workload
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.shares import claimed_cells

CPU = torch.device("cpu")
ENVIRONMENT = environment_of(CPU)
FOREVER = float("inf")


def cells(count):
    return Workload(lengths=range(16, 16 * count + 1, 16), patterns=("dense",), heads=2, head_dim=16).cells(CPU)


@pytest.fixture
def stores(empty_database):
    with Store.open(empty_database) as one, Store.open(empty_database) as other:
        yield one, other


def test_alone_every_cell_comes_once_in_order(stores):
    assert list(claimed_cells(stores[0], ENVIRONMENT, cells(4), FOREVER, Recorder())) == cells(4)


def test_what_another_has_comes_when_it_lets_go(stores, monkeypatch):
    waits = []
    one, other = (claimed_cells(store, ENVIRONMENT, cells(3), FOREVER, Recorder()) for store in stores)
    first, second, third = cells(3)
    assert (next(one), next(other)) == (first, second)
    assert next(one) == third
    monkeypatch.setattr("autotune.shares.time.sleep", lambda seconds: waits.append(seconds) or other.close())
    assert list(one) == [second]
    assert len(waits) == 1


def test_waiting_is_said_once_and_ends_with_the_deadline(stores):
    said = []
    recorder = Recorder()
    recorder.cells_awaited = said.append
    held = claimed_cells(stores[0], ENVIRONMENT, cells(1), FOREVER, Recorder())
    next(held)
    assert list(claimed_cells(stores[1], ENVIRONMENT, cells(1), time.monotonic() + 1.2, recorder)) == []
    assert said == [1]


def test_other_software_and_other_devices_search_a_cell_for_themselves(stores):
    other_software = type(ENVIRONMENT)(
        **{name: getattr(ENVIRONMENT, name) for name in ENVIRONMENT.__dataclass_fields__} | {"torch_version": "9.9"}
    )
    ours = claimed_cells(stores[0], ENVIRONMENT, cells(1), FOREVER, Recorder())
    theirs = claimed_cells(stores[1], other_software, cells(1), FOREVER, Recorder())
    assert next(ours) == next(theirs)


def test_a_claim_ends_with_an_error_in_its_cell(empty_database, stores, monkeypatch):
    from autotune.cell_tuner import Session
    from autotune.tuning import tune

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "tune_cell", fail)
    monkeypatch.setattr("autotune.device_rates.DevicePeak.measure", lambda peak: None)
    workload = Workload(lengths=(16,), patterns=("dense",), heads=2, head_dim=16)
    with pytest.raises(KeyboardInterrupt) as caught:
        tune(workload, device="cpu", db=empty_database)
    assert caught.value is not None
    assert list(claimed_cells(stores[0], ENVIRONMENT, cells(1), time.monotonic() + 1, Recorder())) == cells(1)


TUNER = """
import sys, time
from dataclasses import replace
from functools import partial
import planted
from stand_in import Recorder
from autotune import tuning
from autotune.cells import Workload
from autotune.effort import EFFORTS
from autotune.worker import Deadlines

database, name, count, stops = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "stops"
quick = replace(EFFORTS["quick"], timing_budget_s=0.01, finalists=1, drop_factor=float("inf"), skip_factor=float("inf"))
tuning.Deadlines = partial(Deadlines, start_s=600.0)  # of several at once, on few cores
tuning.STRATEGIES, tuning.EFFORTS = {"correct": planted.CORRECT, "zeros": planted.Zeros()}, {"quick": quick}
workload = Workload(lengths=range(16, 16 * count + 1, 16), patterns=("dense",), heads=2, head_dim=16)
observer = Recorder(after=lambda config, measurement: time.sleep(600 if stops else 0))
results = tuning.tune(workload, device="cpu", db=database, effort="quick", command=name, observer=observer)
print(len(results), sum(result.measured for result in results), flush=True)
"""
CONFIGS = 3  # of the two strategies


def shared(test):
    """Mark a test with up to four processes and four workers, all of which load torch."""
    return pytest.mark.slow(pytest.mark.timeout(2000)(test))


class Tuners:
    """Tuning processes on one database."""

    def __init__(self, database, count, cells, *, stops=False):
        self.database, self.cells = str(database), cells
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", TUNER, self.database, f"tuner {number}", str(cells), "stops" * (stops > number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def records(self):
        with Store.open(self.database) as store:
            return store.records()

    def wait_for(self, condition, seconds=600):
        end = time.monotonic() + seconds
        while not condition(self.records()):
            assert time.monotonic() < end
            time.sleep(0.1)

    def kill(self, number):
        self.processes[number].kill()
        self.processes[number].wait()

    def finish(self):
        """What the survivors say: cells, and measurements that they made."""
        said = [process.communicate(timeout=1000)[0].split() for process in self.processes]
        return [tuple(map(int, words)) for words in said if words]


def searched(records):
    """The runs that measured something in each cell; nothing may be measured twice."""
    runs, seen = defaultdict(set), set()
    for record in records:
        candidate = (record.problem, record.pattern, record.config)
        assert candidate not in seen, candidate
        seen.add(candidate)
        runs[record.problem].add(record.run.command)
    return runs, len(seen)


def measured_by(name):
    return lambda records: any(record.run.command == name for record in records)


@shared
def test_four_processes_share_24_cells_of_a_new_postgresql_database(new_postgresql):
    tuners = Tuners(new_postgresql(), 4, 24)
    said = tuners.finish()
    runs, measured = searched(tuners.records())
    assert [len(names) for names in runs.values()] == [1] * 24
    assert measured == sum(count for _, count in said) == 24 * CONFIGS
    assert [cells for cells, _ in said] == [24] * 4  # each one ends when all are done
    assert len(set().union(*runs.values())) > 1
    statuses = [record.measurement.status for record in tuners.records()]
    assert statuses.count(Status.OK) == 24 * 2


@shared
def test_the_cell_of_a_killed_process_is_finished_by_another(new_postgresql):
    tuners = Tuners(new_postgresql(), 4, 24, stops=True)  # the first one sleeps in its first cell
    try:
        tuners.wait_for(lambda records: measured_by("tuner 0")(records) and len(records) > 6)
    finally:
        tuners.kill(0)
    said = tuners.finish()
    runs, measured = searched(tuners.records())
    assert [cells for cells, _ in said] == [24] * 3
    assert measured == 24 * CONFIGS
    shared = [names for names in runs.values() if len(names) > 1]
    assert len(shared) == 1
    assert "tuner 0" in shared[0]
    assert len(shared[0]) == 2
    assert len(runs) == 24


@shared
def test_two_processes_share_a_new_sqlite_file_and_a_killed_one_gives_its_cell_back(tmp_path):
    (tmp_path / "db").mkdir()
    tuners = Tuners(tmp_path / "db" / "t.db", 2, 8, stops=True)
    try:
        tuners.wait_for(measured_by("tuner 0"))
    finally:
        tuners.kill(0)
    ((cells, _),) = tuners.finish()
    runs, measured = searched(tuners.records())
    assert (cells, len(runs), measured) == (8, 8, 8 * CONFIGS)
    assert [names for names in runs.values() if "tuner 0" in names] == [{"tuner 0", "tuner 1"}]
    assert os.listdir(tmp_path / "db") == ["t.db"]
