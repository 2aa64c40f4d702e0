"""Whole tuning runs: a real worker, a real database, tiny lengths."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import optuna
import planted
import psutil
import pytest
import torch
from optuna.trial import TrialState
from stand_in import Recorder
from test_worker import gone, wait_until

from autotune.cell_tuner import Session
from autotune.cells import Cell, Workload
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.device_rates import DevicePeak
from autotune.effort import EFFORTS
from autotune.environment import DeviceError, environment_of
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.errors import ProblemError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.studies import open_storage
from autotune.tuning import tune
from autotune.worker import Worker

CPU = torch.device("cpu")
WORKLOAD = Workload(lengths=(64,), patterns=("dense",), heads=2, head_dim=16)
QUICK = {"quick": replace(EFFORTS["quick"], timing_budget_s=0.01)}


def run(db, workload=WORKLOAD, **options):
    options.setdefault("observer", Recorder())
    return tune(workload, device="cpu", db=db, effort="quick", **options)


def stored(db):
    with Store.open(db) as store:
        return store.records()


def integrity(db):
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("autotune.tuning.EFFORTS", QUICK)


@pytest.mark.usefixtures("known_rates")
def test_real_strategies_are_measured_stored_and_decided_and_a_second_run_measures_nothing(tmp_path):
    db = tmp_path / "t.db"
    workload = replace(WORKLOAD, patterns=("dense", "dilated", "local_window"), lengths=(300,), sparsities=(0.5,))
    strategies = ["sdpa", "ring", "dilated", "block_sparse"]
    results = run(db, workload, strategies=strategies, trials=2)
    for result in results:
        assert result.measurement.status is Status.OK
        assert result.measurement.rel_error <= 5e-5
        assert len(result.tried) == 2
    assert len({result.cell.pattern for result in results}) == 3
    before = stored(db)
    again = run(db, workload, strategies=strategies, trials=2)
    assert [result.measured for result in again] == [0, 0, 0]
    assert [result.best for result in again] == [result.best for result in results]
    assert stored(db) == before


@pytest.fixture
def session(empty_database):
    """A tuning run as `tune` begins it, for cells that only a GPU's calls have."""
    environment = environment_of(CPU)
    with Store.open(empty_database) as store, Worker() as worker:
        run_id = store.begin_run("by hand")
        yield Session(
            store=store,
            storage=open_storage(store),
            worker=worker,
            peak=DevicePeak(store, worker, run_id, environment, "cpu", "float32"),
            environment=environment,
            run_id=run_id,
            strategies=STRATEGIES,
            effort=replace(QUICK["quick"], trials=2),
            memory_limit_bytes=None,
            deadline=math.inf,
            observer=Recorder(),
        )


@pytest.mark.usefixtures("known_rates")
def test_keys_in_the_hosts_memory_are_a_cell_of_their_own(session):
    problem = Problem.self_attention(300, heads=2, head_dim=16, dtype="float32", kv_home="host")
    dense, dilated = (
        session.tune_cell(Cell(CPU, problem, pattern), number, 2)
        for number, pattern in enumerate((Dense(), Dilated.longnet(300)), start=1)
    )
    assert {config.strategy for config in dense.tried} == {"ring"}
    assert dense.measurement.status is Status.OK
    assert dense.measurement.rel_error <= 5e-5
    assert {measurement.status for measurement in dilated.tried.values()} == {Status.UNSUPPORTED}
    assert {record.problem.kv_home for record in session.store.records()} == {"host"}


def test_keys_in_the_hosts_memory_of_a_cpu_are_refused_before_a_database_is_made(tmp_path):
    with pytest.raises(ProblemError, match="kv_home is 'host' on cpu"):
        run(tmp_path / "t.db", replace(WORKLOAD, kv_home="host"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("known_rates")
def test_the_studies_that_are_left_can_be_loaded_and_tell_what_was_measured(tmp_path, monkeypatch):
    strategies = {plant.name: plant() for plant in (planted.Correct, planted.Zeros)}
    monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
    db = tmp_path / "t.db"
    (result,) = run(db)
    storage = f"sqlite:///{db}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    first = {record.config.text: record.measurement for record in reversed(stored(db))}
    assert study.metric_names == ["log ms"]
    assert {trial.user_attrs["config"] for trial in study.trials} == set(first)
    assert math.exp(study.best_value) == pytest.approx(min(m.time_ms for m in first.values() if m.status is Status.OK))
    assert study.best_trial.params["strategy"] == result.best.strategy == "correct"
    (pruned,) = study.get_trials(states=[TrialState.PRUNED])
    assert pruned.user_attrs["reason"] == f"wrong_result: {first['zeros()'].reason}"


FAST = {
    planted.Zeros: Status.WRONG_RESULT,
    planted.NotANumber: Status.WRONG_RESULT,
    planted.Copies: Status.WRONG_RESULT,
    planted.Segfaults: Status.CRASHED,
    planted.ExhaustsMemory: Status.OOM,
    planted.RaisesInBuild: Status.COMPILE_ERROR,
    planted.Unsupported: Status.UNSUPPORTED,
    planted.Correct: Status.OK,
}
SLOW = {
    planted.HangsInBuild: Status.TIMEOUT,
    planted.FirstRowsOnly: Status.WRONG_RESULT,
    planted.IllegalInstruction: Status.CRASHED,
    planted.HangsInSecondCall: Status.TIMEOUT,
    planted.Killed: Status.CRASHED,
    planted.Exits: Status.CRASHED,
    planted.RaisesInSecondCall: Status.CRASHED,
    planted.ExhaustsPythonMemory: Status.OOM,
}


@pytest.mark.usefixtures("known_rates")
@pytest.mark.parametrize("plants", [FAST, pytest.param(SLOW | FAST, marks=pytest.mark.slow)], ids=["fast", "all"])
def test_planted_candidates_never_win_and_the_run_goes_on(tmp_path, monkeypatch, plants):
    strategies = {plant.name: plant() for plant in plants}
    monkeypatch.setattr("autotune.tuning.STRATEGIES", strategies)
    monkeypatch.setattr("autotune.history.free_memory_bytes", lambda device: 600 << 20)
    monkeypatch.setattr("autotune.tuning.EFFORTS", {"quick": replace(QUICK["quick"], compile_s=15, run_s=15)})
    (result,) = run(tmp_path / "t.db", trials=99)
    statuses = {record.config.strategy: record.measurement.status for record in stored(tmp_path / "t.db")}
    assert statuses == {plant.name: status for plant, status in plants.items()}
    assert result.best.strategy == "correct"
    assert len(result.tried) == len(plants) + 1  # the correct one has two configurations


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu", "must be cpu, cuda, cuda:INDEX or all"), (f"cuda:{99}", "this machine has .* CUDA devices; use")],
)
def test_a_device_that_is_not_there_is_refused_with_a_remedy(tmp_path, device, message):
    with pytest.raises(DeviceError, match=rf"device is '{device}', but {message}"):
        tune(WORKLOAD, device=device, db=tmp_path / "t.db")
    assert list(tmp_path.iterdir()) == []


COORDINATOR = """
import sys
import planted
from autotune import tuning
from autotune.cell_tuner import Session
from autotune.cells import Cell, Workload

tuning.STRATEGIES = {s.name: s for s in (planted.CORRECT, planted.HangsInBuild())}
workload = Workload(lengths=(64,), patterns=("dense",), heads=2, head_dim=16)
tuning.tune(workload, device="cpu", db=sys.argv[1], effort="quick")
"""


@pytest.mark.slow
def test_a_killed_run_leaves_a_sound_database_and_no_worker_and_is_resumed(tmp_path, monkeypatch):
    db, mark = tmp_path / "t.db", tmp_path / "child"
    environment = {**os.environ, planted.CHILD_MARK: str(mark)}
    coordinator = subprocess.Popen([sys.executable, "-c", COORDINATOR, str(db)], env=environment)
    try:
        assert wait_until(mark.exists, 60)  # the default of the first strategy is done, the second one hangs
        (worker,) = [child.pid for child in psutil.Process(coordinator.pid).children()]
        assert wait_until(mark.read_text)
    finally:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
    assert wait_until(lambda: gone(worker) and gone(int(mark.read_text())))
    assert integrity(db) == "ok"
    first = Config.of("correct", variant=0)
    assert [record.config for record in stored(db)] == [first]
    monkeypatch.setattr("autotune.tuning.STRATEGIES", {"correct": planted.CORRECT, "zeros": planted.Zeros()})
    recorder = Recorder()
    (result,) = run(db, observer=recorder)
    searched = [config for event, config, *_ in recorder.events if event == "try"]  # the final may race known ones
    assert sorted(config.text for config in searched) == ["correct(variant=1)", "zeros()"]
    assert result.best.strategy == "correct"
    assert result.cell.device == CPU


@pytest.mark.slow
def test_ctrl_c_during_a_measurement_keeps_the_others_and_leaves_no_worker(tmp_path):
    db, mark = tmp_path / "t.db", tmp_path / "child"
    environment = {**os.environ, planted.CHILD_MARK: str(mark)}
    coordinator = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, str(db)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_until(mark.exists, 60)
        (worker,) = [child.pid for child in psutil.Process(coordinator.pid).children()]
        coordinator.send_signal(signal.SIGINT)
        coordinator.wait(20)
    finally:
        coordinator.kill()
        coordinator.wait()
    assert wait_until(lambda: gone(worker))
    assert wait_until(lambda: gone(int(mark.read_text())))
    assert [record.config for record in stored(db)] == [Config.of("correct", variant=0)]
    with Store.open(db) as store:
        (choice,) = store.choices()
    assert choice.config == Config.of("correct", variant=0)
