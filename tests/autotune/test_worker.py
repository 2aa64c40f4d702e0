"""Every way in which a candidate can end, and that the next one is measured all the same."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from types import ModuleType

import planted
import psutil
import pytest

from autotune.candidate import Candidate, Race
from autotune.db.records import Status
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem
from autotune.worker import Deadlines, Worker, WorkerError

PROBLEM = Problem.self_attention(64, heads=2, head_dim=16)
DEADLINES = Deadlines(compile_s=60.0, run_s=60.0)
VARIANTS = [Config.of("many", variant=number) for number in (0, 1)]
ROUNDS = {"rounds": 2, "budget_s": 10.0}
SHORT = {
    planted.HangsInBuild: replace(DEADLINES, compile_s=0.5),
    planted.HangsInSecondCall: replace(DEADLINES, run_s=0.5),
}


def candidate(strategy, **changes):
    fields = {
        "device": "cpu",
        "problem": PROBLEM,
        "pattern": Dense(),
        "strategy": strategy,
        "config": planted.config_of(strategy),
        "growth_limit_bytes": 512 << 20,
        "threads": 1,
        "timing_budget_s": 0.01,
    }
    return Candidate(**fields | changes)


def gone(pid):
    """Whether a process has ended; a zombie that nobody has reaped yet has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def workers():
    """Worker processes that this process has started and that still run."""
    return [p.pid for p in psutil.Process().children() if not gone(p.pid) and "autotune.worker_main" in p.cmdline()]


@pytest.fixture(scope="module")
def worker():
    with Worker(DEADLINES) as worker:
        yield worker


CASES = [
    (planted.Zeros, Status.WRONG_RESULT, "all zeros", None),
    (planted.NotANumber, Status.WRONG_RESULT, "NaN", None),
    (planted.FirstRowsOnly, Status.WRONG_RESULT, "relative error", None),
    (planted.Copies, Status.WRONG_RESULT, "relative error", None),
    (planted.Segfaults, Status.CRASHED, "SIGSEGV during compile", signal.SIGSEGV),
    (planted.IllegalInstruction, Status.CRASHED, "SIGILL during compile", signal.SIGILL),
    (planted.Killed, Status.CRASHED, "killed by SIGKILL during compile", signal.SIGKILL),
    (planted.DiesInMessage, Status.CRASHED, "killed by SIGTERM during compile", signal.SIGTERM),
    (planted.Exits, Status.CRASHED, "exited with code 3 during compile. about to leave", None),
    (planted.RaisesSystemExit, Status.CRASHED, "exited with code 0 during compile", None),
    (planted.HangsInBuild, Status.TIMEOUT, "compile took longer than 0.5 s", None),
    (planted.HangsInSecondCall, Status.TIMEOUT, "run took longer than 0.5 s", None),
    (planted.ExhaustsMemory, Status.OOM, "can't allocate memory", None),
    (planted.ExhaustsPythonMemory, Status.OOM, "MemoryError", None),
    (planted.RaisesInBuild, Status.COMPILE_ERROR, "RuntimeError: this does not compile", None),
    (planted.RaisesInSecondCall, Status.CRASHED, "StopIteration", None),
    (planted.Unsupported, Status.UNSUPPORTED, "needs compute capability 9.0", None),
]
# A fresh worker for each takes seconds, and these differ from the others only in a number, or are tried below too.
SLOW = {
    planted.Killed,
    planted.RaisesSystemExit,
    planted.IllegalInstruction,
    planted.Exits,
    planted.HangsInBuild,
}


@pytest.mark.parametrize(
    ("strategy", "status", "reason", "number"),
    [pytest.param(*case, id=case[0].name, marks=[pytest.mark.slow] if case[0] in SLOW else []) for case in CASES],
)
def test_each_failure_has_its_own_status_and_the_next_candidate_is_measured(
    worker, strategy, status, reason, number, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_deadlines", SHORT.get(strategy, DEADLINES))
        failed = worker.measure(candidate(strategy()))
    assert failed.status is status, failed.reason
    assert reason in failed.reason
    assert failed.signal == number
    assert failed.times_ms == ()
    after = worker.measure(candidate(planted.CORRECT))
    assert after.status is Status.OK, after.reason
    assert len(after.times_ms) >= 3
    assert after.rel_error < 5e-5
    assert len(workers()) == 1


@pytest.mark.parametrize(
    ("number", "reason", "again"),
    [
        (0, "prepare took longer than 2 s", False),
        pytest.param(signal.SIGSEGV, "killed by SIGSEGV during prepare", False, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "killed by SIGKILL during prepare", True, marks=pytest.mark.slow),
    ],
)
def test_a_cell_without_an_oracle_is_no_candidates_fault_and_costs_its_time_once(
    worker, monkeypatch, number, reason, again
):
    worker.measure(candidate(planted.CORRECT))
    monkeypatch.setattr(worker, "_deadlines", replace(DEADLINES, prepare_s=2.0))
    one, other = (candidate(planted.Many(), config=config, pattern=planted.Unprepared(number)) for config in VARIANTS)
    first = worker.measure(one)
    assert first.status is Status.SKIPPED
    assert f"no inputs and oracle: {reason}" in first.reason
    asked = []
    monkeypatch.setattr(worker, "_ask", lambda task: asked.append(task) or first)
    assert worker.measure(other) == first
    assert asked == ([other] if again else [])
    monkeypatch.undo()
    assert worker.measure(candidate(planted.CORRECT)).status is Status.OK


@pytest.mark.slow
def test_a_kill_that_the_kernel_counts_is_for_want_of_memory(worker, monkeypatch):
    counts = count()
    monkeypatch.setattr("autotune.worker.oom_kills", lambda: next(counts))
    killed = worker.measure(candidate(planted.Killed()))
    assert (killed.status, killed.signal) == (Status.OOM, signal.SIGKILL)
    assert killed.reason == "killed by the kernel during compile (SIGKILL), for want of memory"


def test_wrong_gradients_are_a_wrong_result(worker):
    training = replace(PROBLEM, direction="training")
    wrong = worker.measure(candidate(planted.WrongGradients(), problem=training))
    assert wrong.status is Status.WRONG_RESULT
    assert "value gradient" in wrong.reason
    assert worker.measure(candidate(planted.CORRECT, problem=training)).status is Status.OK


def test_the_same_worker_process_serves_as_long_as_it_lives(worker):
    worker.measure(candidate(planted.CORRECT))
    before = workers()
    for strategy in (planted.Zeros(), planted.RaisesInBuild(), planted.CORRECT):
        worker.measure(candidate(strategy))
    assert workers() == before


def test_the_compiler_is_loaded_before_what_is_compiled_and_for_nothing_else():
    strategy = planted.WithoutCompiler()
    compiled = Config.of(strategy.name, compile="default")
    with Worker(DEADLINES) as worker:
        done = [worker.measure(candidate(strategy)) for _ in range(2)]
        refused = worker.measure(candidate(strategy, config=compiled))
    assert [measured.status for measured in done] == [Status.OK] * 2
    assert refused.reason.endswith("the compiler is loaded")


def test_a_measurement_tells_what_each_phase_took(worker):
    measured = worker.measure(candidate(planted.CORRECT))
    assert min(measured.compile_s, measured.gate_s, measured.timing_s) > 0
    assert measured.peak_memory_bytes is not None


def test_one_repeat_is_enough_for_a_candidate_that_has_lost(worker):
    measured = worker.measure(candidate(planted.CORRECT, drop_over_ms=1e-9))
    assert len(measured.times_ms) == 1


def test_a_race_is_between_problems_too_and_each_has_its_own_inputs(worker):
    lengths = (64, 32, 64)
    problems = [replace(PROBLEM, query_len=length, kv_len=length) for length in lengths]
    contest = Race(candidates=tuple(candidate(planted.NeedsLength(each), problem=each) for each in problems), **ROUNDS)
    times = worker.race(contest)
    assert [len(each) for each in times] == [2] * 3
    assert all(time_ms > 0 for each in times for time_ms in each)
    wrong = Race(candidates=(candidate(planted.NeedsLength(problems[1]), problem=problems[0]),), **ROUNDS)
    assert worker.race(wrong) == []
    assert worker.measure(candidate(planted.CORRECT)).status is Status.OK


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may take")
def test_memory_is_limited_in_a_race_as_in_a_measurement(worker):
    roomy, cramped = (candidate(planted.TakesMemory(), growth_limit_bytes=mib << 20) for mib in (1024, 128))
    assert worker.measure(cramped).status is Status.OOM
    assert len(worker.race(Race(candidates=(roomy, roomy), **ROUNDS))) == 2
    assert worker.race(Race(candidates=(roomy, cramped), **ROUNDS)) == []
    assert worker.measure(roomy).status is Status.OK  # the limit is lifted again


def test_each_finalist_has_a_deadline_of_its_own_to_be_built():
    slow = candidate(planted.SlowToBuild())
    with Worker(replace(DEADLINES, compile_s=2.0)) as worker:
        assert len(worker.race(Race(candidates=(slow,) * 3, **ROUNDS))) == 3


@pytest.mark.slow
def test_a_strategy_that_the_worker_cannot_import_costs_only_itself(worker, monkeypatch):
    module = ModuleType("no_such_module")
    module.Local = type("Local", (planted.Correct,), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    failed = worker.measure(candidate(module.Local()))
    assert failed.status is Status.CRASHED
    assert "No module named 'no_such_module'" in failed.reason
    assert worker.measure(candidate(planted.CORRECT)).status is Status.OK


@pytest.mark.slow
def test_what_one_worker_printed_is_not_in_the_next_ones_reason(worker):
    reasons = [worker.measure(candidate(planted.Exits())).reason for _ in range(2)]
    assert reasons == ["exited with code 3 during compile. about to leave"] * 2


@pytest.mark.slow
def test_a_worker_killed_between_two_candidates_is_replaced():
    before = workers()
    with Worker(DEADLINES) as worker:
        worker.measure(candidate(planted.CORRECT))
        (pid,) = set(workers()) - set(before)
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: gone(pid))
        assert worker.measure(candidate(planted.CORRECT)).status is Status.OK


def test_a_candidate_that_writes_into_its_inputs_does_not_spoil_the_next_one(worker):
    worker.measure(candidate(planted.SpoilsInputs()))
    after = worker.measure(candidate(planted.CORRECT))
    other = replace(PROBLEM, query_len=32, kv_len=32)
    assert worker.measure(candidate(planted.CORRECT, problem=other)).status is Status.OK  # and fresh inputs
    assert after.status is Status.OK, after.reason


def test_a_candidate_that_is_right_only_in_its_first_call_is_wrong(worker):
    measured = worker.measure(candidate(planted.RightOnlyOnce()))
    assert measured.status is Status.WRONG_RESULT


def test_nothing_is_left_after_a_hang_and_an_exit(tmp_path, monkeypatch):
    mark = tmp_path / "child"
    monkeypatch.setenv(planted.CHILD_MARK, str(mark))
    before = workers()
    with pytest.raises(KeyboardInterrupt), Worker(replace(DEADLINES, compile_s=1.0)) as worker:  # noqa: PT012
        assert worker.measure(candidate(planted.HangsInBuild())).status is Status.TIMEOUT
        assert wait_until(lambda: gone(int(mark.read_text())))  # the process that the candidate had started
        raise KeyboardInterrupt
    assert workers() == before


@pytest.mark.slow
def test_an_idle_worker_ends_with_the_block():
    before = workers()
    with pytest.raises(KeyboardInterrupt), Worker(DEADLINES) as worker:  # noqa: PT012
        worker.measure(candidate(planted.CORRECT))
        (pid,) = set(workers()) - set(before)
        raise KeyboardInterrupt
    assert gone(pid)


def test_a_worker_that_cannot_start_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Worker() as worker, pytest.raises(WorkerError, match="ended with exit code 1 before it was ready"):
        worker.measure(candidate(planted.CORRECT))


@pytest.fixture
def killed_at_start(tmp_path, monkeypatch):
    """Python, but for the first few processes, which are killed before they do anything."""

    def python(times):
        starts = tmp_path / "starts"
        script = tmp_path / "python"
        script.write_text(
            f"#!/bin/sh\necho >> {starts}\n"
            f"[ $(wc -l < {starts}) -le {times} ] && kill -9 $$\n"
            f'exec {sys.executable} "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return starts

    return python


@pytest.mark.slow
def test_a_worker_that_is_killed_as_it_starts_is_followed_by_another(killed_at_start):
    starts = killed_at_start(2)
    with Worker(DEADLINES) as worker:
        assert worker.measure(candidate(planted.CORRECT)).status is Status.OK
    assert len(starts.read_text()) == 3


def test_who_is_killed_at_every_start_is_one_clear_error(killed_at_start):
    starts = killed_at_start(100)
    with Worker() as worker, pytest.raises(WorkerError, match="was killed before it was ready"):
        worker.measure(candidate(planted.CORRECT))
    assert len(starts.read_text()) == 3


PARENT = """
import os, subprocess, sys
held, lifeline = os.pipe()
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], str(held)], pass_fds=[held], stdout=subprocess.PIPE, start_new_session=True
)
print(child.pid, int(child.stdout.readline()), flush=True)
child.wait()
"""
CHILD = """
import os, subprocess, sys
from autotune.worker_main import end_with
end_with(int(sys.argv[1]), os.open(os.devnull, os.O_RDONLY))
compiler = subprocess.Popen(["sleep", "600"])
print(compiler.pid, flush=True)
compiler.wait()
"""
COORDINATOR = """
import planted
import psutil
from test_worker import candidate, workers
from autotune.worker import Worker

with Worker() as worker:
    worker.measure(candidate(planted.CORRECT))
    print(*workers(), *(child.pid for child in psutil.Process(*workers()).children()), flush=True)
    worker.measure(candidate(planted.HangsInBuild()))
"""


@pytest.mark.parametrize("program", [[PARENT, CHILD], pytest.param([COORDINATOR], marks=pytest.mark.slow)])
def test_the_worker_and_what_it_has_started_die_with_a_coordinator_that_is_killed(program):
    coordinator = subprocess.Popen([sys.executable, "-c", *program], stdout=subprocess.PIPE, text=True)
    try:
        worker, other = map(int, coordinator.stdout.readline().split())
        assert not gone(worker)
        assert not gone(other)
    finally:
        coordinator.kill()
        coordinator.wait()
        coordinator.stdout.close()
    assert wait_until(lambda: gone(worker) and gone(other))


def test_a_worker_whose_coordinator_went_while_it_started_ends_at_once():
    held, lifeline = os.pipe()
    os.close(lifeline)
    orphan = subprocess.Popen([sys.executable, "-c", CHILD, str(held)], pass_fds=[held], start_new_session=True)
    os.close(held)
    assert orphan.wait(60) == -signal.SIGKILL
