"""Whoever is killed, whenever: what was committed stays, nothing is left running, and the same command goes on.

``KILLS=200 pytest tests/autotune/test_kills.py -m slow`` kills that many runs in place of a few.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial

import planted
import psutil
import pytest
import torch
from stand_in import RATES
from test_worker import wait_until

from autotune import final, tuning
from autotune.cells import Workload
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.effort import EFFORTS
from autotune.environment import environment_of
from autotune.observer import Observer
from autotune.worker import Deadlines

KILLS = int(os.environ.get("KILLS", "6"))
MARK = "AUTOTUNE_TEST_KILL"  # in the environment of every process of one run
WORKLOAD = Workload(lengths=(32, 64), patterns=("dense",), heads=2, head_dim=16)
CANDIDATES = 2 * planted.VARIANTS
FINALISTS = 3
MOMENT_S = 0.05  # at most this long after an event somebody is killed
OF_A_CELL = 2 * planted.VARIANTS + 1 + FINALISTS  # events that are told


class Teller(Observer):
    """Tells the test through a pipe what begins, and what is done and committed."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.cell = None

    def cell_started(self, cell, number, total, candidates):
        self.cell = cell.problem.kv_len

    def candidate_started(self, config):
        self.pipe.send(("start", (self.cell, config)))

    def candidate_finished(self, config, measurement):
        self.pipe.send(("done", (self.cell, config)))

    def final_started(self, finalists):
        self.pipe.send(("final", self.cell))

    def final_failed(self, finalists):
        self.pipe.send(("failed", self.cell))


def coordinate(database, pipe, mark):
    """A tuning run of many short candidates, in a process that was forked: loading torch takes longer than the run."""
    os.environ[MARK] = mark
    tuning.Deadlines = partial(Deadlines, start_s=600.0)
    tuning.STRATEGIES = {"many": planted.Many()}
    final.FINALIST_FACTOR = float("inf")
    quick = replace(EFFORTS["quick"], trials=None, timing_budget_s=0.01)
    quick = replace(quick, finalists=FINALISTS, rounds=1000, extra_rounds=0)  # a moment long enough to be killed in
    tuning.EFFORTS = {"quick": replace(quick, drop_factor=float("inf"), skip_factor=float("inf"))}
    tuning.tune(WORKLOAD, device="cpu", db=database, effort="quick", observer=Teller(pipe))
    time.sleep(10 * MOMENT_S)  # who is to be killed after the last event is still there


class Run:
    """One coordinator, its worker, and what it has told."""

    def __init__(self, database, mark):
        self.mark = mark
        self.events = []
        self._pipe, theirs = multiprocessing.Pipe(duplex=False)
        # Not a daemon of multiprocessing's: those may have no children.
        self.process = multiprocessing.get_context("fork").Process(target=coordinate, args=(database, theirs, mark))
        self.process.start()
        theirs.close()

    def listen(self, events=None):
        """Until so many events were told, or the coordinator has ended."""
        while events is None or len(self.events) < events:
            try:
                self.events.append(self._pipe.recv())
            except EOFError:
                break

    def end(self):
        """Its exit code."""
        self.listen()
        self.process.join()
        self._pipe.close()
        return self.process.exitcode

    def told(self, kind):
        return [candidate for event, candidate in self.events if event == kind]

    def worker(self):
        found = [p.pid for p in psutil.Process(self.process.pid).children() if "autotune.worker_main" in p.cmdline()]
        return found[0] if found else None

    def left_over(self):
        """Processes of this run that still live."""
        return [process.pid for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False


def stored(database):
    """What searches have measured, and how many rows that is."""
    with Store.open(database) as store:
        searched = [record for record in store.records() if record.measurement.race is None]
    return {(r.problem.kv_len, r.config): r.measurement for r in searched}, len(searched)


def finals(database):
    """How many took part in each race of each cell, and the cells whose decision rests on a race."""
    with Store.open(database) as store:
        raced = [record for record in store.records() if record.measurement.race is not None]
        chosen = {choice.measurement_id for choice in store.choices()}
    races = Counter((record.problem.kv_len, record.measurement.race) for record in raced)
    return races, {record.problem.kv_len for record in raced if record.id in chosen}


def integrity(database):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, _migrated_database):
    """A database that knows the device's rates already."""
    path = shutil.copy(_migrated_database, tmp_path_factory.mktemp("prepared") / "t.db")
    with Store.open(path) as store:
        run_id, here = store.begin_run("by hand"), environment_of(torch.device("cpu"))
        store.add_rate(run_id, here, "float32", RATES.matmul_flops_per_s, RATES.copy_bytes_per_s)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_that_is_killed_at_a_random_moment_is_resumed(tmp_path, prepared, seed):
    chance = random.Random(seed)
    database = tmp_path / "t.db"
    if seed % 4:  # one in four begins with no file, and is killed while it makes one too
        shutil.copy(prepared, database)
    victim = chance.choice(["coordinator", "worker"])
    # A worker has nothing to do once the last race is over, and is gone soon.
    after = chance.randrange(victim == "worker", 2 * OF_A_CELL - (FINALISTS if victim == "worker" else 0))
    kill_and_resume(database, victim, after, chance.uniform(0, MOMENT_S if after else 3.0))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["coordinator", "worker"])
@pytest.mark.parametrize("cell", [0, 1])
def test_a_run_that_is_killed_in_a_final_holds_it_when_it_is_resumed(tmp_path, prepared, victim, cell):
    database = shutil.copy(prepared, tmp_path / "t.db")
    run = kill_and_resume(database, victim, cell * OF_A_CELL + 2 * planted.VARIANTS + 1, 0.01)
    assert run.events[-1 if victim == "coordinator" else cell * OF_A_CELL + 2 * planted.VARIANTS][0] == "final"
    assert (victim == "worker") == bool(run.told("failed"))


def kill_and_resume(database, victim, after, delay_s):
    """Kill a run some time after so many events, check what it leaves, and that the next one completes it."""
    run = Run(database, f"{os.getpid()}-{database}-1")
    run.listen(after)
    time.sleep(delay_s)
    target = run.process.pid if victim == "coordinator" else run.worker()
    os.kill(target, signal.SIGKILL)
    code = run.end()
    assert wait_until(lambda: not run.left_over(), 60)
    if database.exists():
        assert integrity(database) == "ok"
    before, count = stored(database)  # a file that was not finished is finished by this

    started, done = set(run.told("start")), set(run.told("done"))
    repeated = count - len(before)
    assert repeated in (0, FINALISTS * len(run.told("failed")))  # nothing twice but after a race that failed
    assert set(finals(database)[0].values()) <= {FINALISTS}  # a race is stored as a whole
    assert done <= set(before) <= started
    lost = started - set(before) | {candidate for candidate, m in before.items() if m.status is not Status.OK}
    assert len(lost) <= 1
    assert code == (-signal.SIGKILL if victim == "coordinator" else 0)

    again = Run(database, f"{os.getpid()}-{database}-2")
    assert again.end() == 0
    killed = {candidate for candidate, m in before.items() if m.was_killed}
    assert set(again.told("start")) & set(before) == killed  # who was killed is tried again, and nobody else
    after_all, count = stored(database)
    assert (len(after_all), count) == (CANDIDATES, CANDIDATES + len(killed) + repeated)
    races, decided = finals(database)
    assert decided == set(WORKLOAD.lengths)
    assert set(races.values()) == {FINALISTS}
    assert len(races) <= len(decided) + len(killed)  # who is tried again may win
    assert integrity(database) == "ok"
    assert wait_until(lambda: not again.left_over(), 60)
    print(f"{victim} killed after {after} events, {len(before)} stored, {len(lost)} lost, {len(races)} races")
    return run
