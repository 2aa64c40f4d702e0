"""The coordinator's handle on a disposable worker process."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from autotune.candidate import Candidate, Phase, Race
from autotune.db.records import Measurement, Status
from autotune.process_limits import oom_kills
from autotune.rates import Rates, RateTask
from autotune.shootout import Times
from autotune.strategies.errors import AutotuneError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

STDERR_CHARACTERS = 600
STARTS = 3  # of a process that somebody kills before it is ready

Task = Candidate | Race | RateTask
Outcome = Measurement | Times | Rates


class Tester(Protocol):
    """What a search needs of a worker."""

    def measure(self, candidate: Candidate) -> Measurement:
        """Try a candidate, whatever happens."""
        ...

    def race(self, contest: Race) -> Times:
        """Time candidates in turn; empty if one of them fails after all."""
        ...

    def rates(self, task: RateTask) -> Rates | None:
        """What the device reaches in plain operations; None if even those do not run."""
        ...


class WorkerError(AutotuneError, RuntimeError):
    """The worker does not even start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each phase of a candidate may take, in seconds."""

    start_s: float = 120.0  # importing torch on a busy machine
    prepare_s: float = 600.0  # inputs and oracle, once for each cell
    compile_s: float = 120.0  # build and first call
    run_s: float = 60.0  # gate, memory and timing

    def of(self, phase: Phase) -> float:
        """The deadline of one phase."""
        by_phase = {"prepare": self.prepare_s, "compile": self.compile_s, "run": self.run_s}
        return by_phase.get(phase, self.prepare_s)


def _search_path() -> str:
    """Where this process finds its modules: the worker is to run the same ones, whatever lies in its folder."""
    return os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)


def _cell(candidate: Candidate) -> tuple[str, Problem, Pattern]:
    """What candidates have in common that share inputs and oracle."""
    return candidate.device, candidate.problem, candidate.pattern


def _may_be_poisoned(task: Task, outcome: Outcome) -> bool:
    """Whether a CUDA error may have left the process unable to run anything else."""
    candidate = task.candidates[0] if isinstance(task, Race) else task
    if candidate.device == "cpu":
        return False
    if isinstance(outcome, Measurement):
        return outcome.status in (Status.CRASHED, Status.COMPILE_ERROR)
    return not outcome


class Worker:
    """Tries candidates in a process of its own, which is replaced when it dies or overruns a deadline."""

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self._deadlines = deadlines or Deadlines()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._lifeline: int  # closed when this process ends, which ends the worker and whatever it has started
        self._unprepared: dict[tuple[str, Problem, Pattern], Measurement] = {}  # cells without inputs and oracle
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._stderr.close()

    def measure(self, candidate: Candidate) -> Measurement:
        """Try a candidate, whatever happens to the process that does it.

        Raises:
            WorkerError: no worker could be started.
        """
        if (known := self._unprepared.get(_cell(candidate))) is not None:
            return known
        outcome = self._ask(candidate)
        assert isinstance(outcome, Measurement)
        return outcome

    def race(self, contest: Race) -> Times:
        """Time candidates in turn; empty if one of them fails after all.

        Raises:
            WorkerError: no worker could be started.
        """
        outcome = self._ask(contest)
        return outcome if isinstance(outcome, list) else []

    def rates(self, task: RateTask) -> Rates | None:
        """What the device reaches in plain operations; None if even those do not run.

        Raises:
            WorkerError: no worker could be started.
        """
        outcome = self._ask(task)
        return outcome if isinstance(outcome, Rates) else None

    def _ask(self, task: Task) -> Outcome:
        """The worker's answer, or the measurement that says how it died."""
        if self._process is not None and self._process.poll() is not None:
            self._kill()  # it died between two tasks
        if self._process is None:
            self._start()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is read below
            self._connection.send(task)
        phase: Phase = "receive"
        kills_before = oom_kills()
        while True:
            limit = self._deadlines.of(phase)
            if not self._connection.poll(None if limit == float("inf") else limit):
                self._kill()
                late = Measurement(status=Status.TIMEOUT, reason=f"{phase} took longer than {limit:g} s")
                return self._charged(task, phase, late)
            try:
                message = self._connection.recv()
            except (EOFError, OSError):  # plain OSError: it died in the middle of a message
                return self._charged(task, phase, self._post_mortem(phase, kills_before))
            if isinstance(message, Measurement | Rates | list):
                if _may_be_poisoned(task, message):
                    self._kill()
                return message
            phase = message

    def _charged(self, task: Task, phase: Phase, death: Measurement) -> Measurement:
        """The death as its candidate's measurement: none if inputs and oracle were being made, which a cell shares."""
        if phase != "prepare" or not isinstance(task, Candidate):
            return death
        skipped = replace(death, status=Status.SKIPPED, reason=f"no inputs and oracle: {death.reason}")
        if not skipped.was_killed:  # the cell's other candidates would meet the same end, each after as long
            self._unprepared[_cell(task)] = skipped
        return skipped

    def _start(self) -> None:
        """Have a process that is ready; another one where somebody killed it before it was."""
        for _ in range(STARTS):
            process = self._process = self._spawn()
            killed, end = False, f"did not start within {self._deadlines.start_s:g} s"
            try:
                if self._connection.poll(self._deadlines.start_s) and self._connection.recv() == "ready":
                    return
            except (EOFError, OSError):
                code = process.wait()
                killed = code == -signal.SIGKILL
                end = f"{'was killed' if killed else f'ended with exit code {code}'} before it was ready"
            self._kill()
            if not killed:
                break
        raise WorkerError(f"the worker process {end}: {self._tail()}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        ours, theirs = Pipe()
        held, self._lifeline = os.pipe()
        self._stderr.seek(0)
        self._stderr.truncate()
        # A group of its own: Ctrl-C is for the coordinator, and killing the group takes compilers along.
        # One compile thread: inductor's pool of processes would outlive a kill and blur the clock.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autotune.worker_main", str(theirs.fileno()), str(held)],
            pass_fds=[theirs.fileno(), held],
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            start_new_session=True,
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONPATH": _search_path()},
        )
        theirs.close()
        os.close(held)
        self._connection = ours
        return process

    def _post_mortem(self, phase: Phase, kills_before: int) -> Measurement:
        """The status of a worker that died by itself."""
        assert self._process is not None
        code = self._process.wait()
        self._kill()
        tail = self._tail()
        if code == -signal.SIGKILL and oom_kills() > kills_before:
            reason = f"killed by the kernel during {phase} (SIGKILL), for want of memory"
            return Measurement(status=Status.OOM, reason=reason, signal=-code)
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name} during {phase}. {tail}".strip()
            return Measurement(status=Status.CRASHED, reason=reason, signal=-code)
        return Measurement(status=Status.CRASHED, reason=f"exited with code {code} during {phase}. {tail}".strip())

    def _kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # gone by itself, and its children with it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        os.close(self._lifeline)
        self._process = None

    def _tail(self) -> str:
        """The end of what the worker printed."""
        time.sleep(0.01)
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_CHARACTERS))
        return self._stderr.read().decode(errors="replace").strip()
