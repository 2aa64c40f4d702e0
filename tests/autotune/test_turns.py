"""Processes that measure on one device take turns; those on other devices, or other databases, do not wait."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import planted
import pytest
import torch
from rich.console import Console
from stand_in import Recorder, StandIn
from test_worker import ROUNDS, candidate

from autotune.candidate import Race
from autotune.cells import Workload
from autotune.db.store import Store
from autotune.environment import device_identity
from autotune.history import GROWTH_SHARE
from autotune.progress import Progress
from autotune.rates import RateTask
from autotune.tuning import tune
from autotune.turns import InTurn

CPU = torch.device("cpu")
NAME = f"measurements on {device_identity(CPU)}"
ONE = candidate(planted.CORRECT, growth_limit_bytes=1)
RATES = RateTask(device="cpu", dtype="float32", threads=1)
TASKS = {
    "measure": lambda worker: worker.measure(ONE),
    "race": lambda worker: worker.race(Race(candidates=(ONE, ONE), **ROUNDS)),
    "rates": lambda worker: worker.rates(RATES),
}


@pytest.fixture
def store(empty_database):
    with Store.open(empty_database) as store:
        yield store


@pytest.fixture(autouse=True)
def _answers(monkeypatch):
    for name in ("asked", "asked_for_rates", "contests"):
        monkeypatch.setattr(StandIn, name, [])


def work(database, task, count, mark):
    """Hold the mark for a moment in each answer: it can be made only where nobody else has it."""
    waits = []
    observer = Recorder()
    observer.device_awaited = waits.append

    class Marks(StandIn):
        def answer(self, *_):
            mark.touch(exist_ok=False)
            time.sleep(0.02)
            mark.unlink()

        measure = race = rates = answer

    with Store.open(database) as store:
        worker = InTurn(Marks(), store, CPU, observer)
        for _ in range(count):
            TASKS[task](worker)
    assert len(waits) <= 1


@pytest.mark.parametrize("server", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["file", "postgresql"])
def test_measurements_races_and_rates_of_several_processes_never_overlap(request, tmp_path, empty_database, server):
    database = request.getfixturevalue("new_postgresql")() if server else empty_database
    Store.open(database).close()
    fork = multiprocessing.get_context("fork").Process
    processes = [fork(target=work, args=(database, task, 10, tmp_path / "mark")) for task in (*TASKS, "measure")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def hold(database, ready):
    with Store.open(database) as store, store.claim(NAME):
        ready.set()
        time.sleep(600)


@pytest.fixture
def holder(empty_database):
    """A process that measures on the CPU, and does not end by itself."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(empty_database, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("task", TASKS)
def test_who_waits_is_told_so_and_has_the_turn_of_one_that_is_killed(store, holder, task):
    told = []

    def kill(device):
        told.append(device)
        os.kill(holder.pid, signal.SIGKILL)

    observer = Recorder()
    observer.device_awaited = kill
    worker = InTurn(StandIn(), store, CPU, observer)
    TASKS[task](worker)
    TASKS[task](worker)
    assert told == ["cpu"]
    assert len(StandIn.asked + StandIn.contests + StandIn.asked_for_rates) == 2


def test_tuning_measures_in_turn(empty_database, holder, monkeypatch):
    monkeypatch.setattr("autotune.tuning.STRATEGIES", {"correct": planted.CORRECT})
    monkeypatch.setattr("autotune.tuning.Worker", StandIn)
    observer = Recorder()
    observer.device_awaited = lambda device: os.kill(holder.pid, signal.SIGKILL)
    workload = Workload(lengths=(64,), patterns=("dense",), heads=2, head_dim=16)
    (result,) = tune(workload, device="cpu", db=empty_database, observer=observer)
    assert result.best is not None
    holder.join(60)
    assert holder.exitcode == -signal.SIGKILL


def test_the_memory_that_the_other_one_held_is_free_again(store, holder, monkeypatch):
    monkeypatch.setattr("autotune.turns.free_memory_bytes", lambda device: 1000)
    observer = Recorder()
    observer.device_awaited = lambda device: os.kill(holder.pid, signal.SIGKILL)
    worker = InTurn(StandIn(), store, CPU, observer)
    for _ in range(2):
        worker.measure(ONE)
    waited, at_once = StandIn.asked
    assert waited == replace(ONE, growth_limit_bytes=int(GROWTH_SHARE * 1000))
    assert at_once == ONE


def test_other_devices_do_not_wait(store, holder, monkeypatch):
    uuids = {0: "GPU-a", 1: "GPU-b"}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[torch.device(device).index])
    )
    first, second = (torch.device("cuda", index) for index in uuids)
    assert len({device_identity(device) for device in (CPU, first, second)}) == 3
    observer = Recorder()
    observer.device_awaited = pytest.fail
    with store.claim(f"measurements on {device_identity(first)}"):
        InTurn(StandIn(), store, second, observer).measure(ONE)
    assert StandIn.asked == [ONE]


def test_the_user_is_told():
    console = Console(width=100)
    with console.capture() as capture:
        Progress(console).device_awaited("cuda:1")
    assert capture.get() == "another process measures on cuda:1: waiting, the two take turns\n"
