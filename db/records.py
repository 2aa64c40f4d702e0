"""The facts that are stored: environments, measurements and decisions as frozen data."""

import hashlib
import json
import signal
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum

from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem


class Status(StrEnum):
    """How trying a candidate ended."""

    OK = "ok"
    OOM = "oom"
    TIMEOUT = "timeout"
    COMPILE_ERROR = "compile_error"
    CRASHED = "crashed"
    UNSUPPORTED = "unsupported"
    WRONG_RESULT = "wrong_result"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a measurement was taken; two measurements compare only within one fingerprint."""

    device: str  # device type: "cpu" or "cuda"
    device_name: str
    device_memory_bytes: int  # rounded up to GiB: equal machines differ by some MiB
    capability: str  # CUDA compute capability ("9.0") or the CPU's instruction set ("AVX2")
    driver: str
    cpu_name: str
    threads: int
    torch_version: str
    triton_version: str
    cuda_version: str
    python_version: str
    platform: str

    @property
    def fingerprint(self) -> str:
        """Content hash over every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def is_same_device(self, other: "Environment") -> bool:
        """Whether both are one kind of device, used alike, with whatever software."""
        used = ("device", "device_name", "capability", *(["threads"] if self.device == "cpu" else []))
        return all(getattr(self, name) == getattr(other, name) for name in used)

    def differences(self, now: "Environment") -> str:
        """What is another one now, in words; empty if nothing is.

        >>> old = Environment(**dict.fromkeys(Environment.__annotations__, "2.12"))
        >>> from dataclasses import replace
        >>> old.differences(replace(old, torch_version="2.13"))
        'torch 2.12, now 2.13'
        """
        changed = [field.name for field in fields(self) if getattr(self, field.name) != getattr(now, field.name)]
        return "; ".join(
            f"{name.removesuffix('_version').replace('_', ' ')} {getattr(self, name) or 'none'}, "
            f"now {getattr(now, name) or 'none'}"
            for name in changed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One candidate, tried once."""

    status: Status
    reason: str = ""  # why it is not ok, in full
    times_ms: tuple[float, ...] = ()  # raw repeats, in the order taken
    peak_memory_bytes: int | None = None  # above the inputs, output included
    predicted_memory_bytes: int | None = None  # the strategy's own estimate, made before running
    rel_error: float | None = None  # worst row of |out - oracle| / |oracle|, both L2 over head_dim
    max_abs_error: float | None = None
    signal: int | None = None  # the signal that killed the worker
    compile_s: float | None = None  # build and first call
    gate_s: float | None = None  # check against the oracle
    timing_s: float | None = None  # warm-up and repeats
    race: str | None = None  # shared by measurements that were timed in turn: their i-th repeats are of one round

    @property
    def time_ms(self) -> float | None:
        """Median of the repeats.

        >>> Measurement(status=Status.OK, times_ms=(3.0, 1.0, 2.0)).time_ms
        2.0
        """
        return statistics.median(self.times_ms) if self.times_ms else None

    @property
    def was_killed(self) -> bool:
        """Whether somebody outside killed the worker, which says nothing about the candidate."""
        return self.signal == signal.SIGKILL and self.status is not Status.OOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One invocation that measured something: what was typed, and when."""

    command: str
    started_at: datetime  # UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A stored measurement with everything that identifies it."""

    id: int
    created_at: datetime  # UTC
    run: Run
    environment: Environment
    problem: Problem
    pattern: Pattern
    config: Config
    measurement: Measurement
    uid: str = ""  # the same in every copy of the database; empty if it was never in one


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A stored decision: the configuration a search settled on for one cell, and the measurement it rests on."""

    created_at: datetime  # UTC
    environment: Environment
    problem: Problem
    pattern: Pattern
    config: Config
    measurement_id: int
    margin: float | None  # runner-up's median / winner's median - 1; None without a runner-up
    candidates: int  # configurations tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a device reached in plain operations, best of several repeats: no attention can honestly pass it."""

    created_at: datetime  # UTC
    run: Run
    environment: Environment
    dtype: str
    matmul_flops_per_s: float  # of a large square matrix product
    copy_bytes_per_s: float  # read and written while copying a large tensor
    uid: str = ""  # the same in every copy of the database; empty if it was never in one


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a database knows, or a part of it, complete in itself: what is exported, imported and merged."""

    records: Sequence[Record] = ()
    choices: Sequence[Choice] = ()  # all that were ever made, oldest first; they rest on records that are here
    rates: Sequence[Rate] = ()
