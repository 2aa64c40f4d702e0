"""``autotune doctor``: is everything there that tuning needs, and what to do if not."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch

from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.store import Store
from autotune.environment import distinct_devices, environment_of, free_memory_bytes
from autotune.strategies.native import compiler
from autotune.units import format_bytes

PROBE = """
import torch
x = torch.randn(1, 2, 64, 32, dtype=torch.{dtype})
torch.nn.functional.scaled_dot_product_attention(x, x, x)
"""
AMX_REMEDY = "set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    good: bool
    detail: str


def run_doctor(db: str | None) -> None:
    """Print all findings; exit code 1 if something is wrong."""
    findings = list(_findings(db))
    for finding in findings:
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.name}: {finding.detail}")
    if not all(finding.good for finding in findings):
        raise SystemExit(1)


def _findings(db: str | None) -> Iterator[Finding]:
    yield Finding("torch", True, f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
    for device in distinct_devices():
        environment = environment_of(device)
        memory = f"{format_bytes(free_memory_bytes(device))} free of {format_bytes(environment.device_memory_bytes)}"
        yield Finding(str(device), True, f"{environment.device_name}, {environment.capability}, {memory}")
    remedy = "no C++ compiler found; install g++, or only uncompiled configurations run on the CPU"
    yield Finding("compiler", compiler() is not None, " ".join(compiler() or ()) or remedy)
    for dtype in ("float32", "bfloat16", "float16"):
        yield _dtype(dtype)
    yield _database(db)


def _dtype(dtype: str) -> Finding:
    """Some CPUs advertise instructions that kill the process, so that attention is tried in another one."""
    probe = subprocess.run([sys.executable, "-c", PROBE.format(dtype=dtype)], capture_output=True, check=False)
    if probe.returncode == 0:
        return Finding(dtype, True, "attention runs on the CPU")
    if probe.returncode < 0:
        return Finding(dtype, False, f"attention on the CPU is killed by signal {-probe.returncode}; {AMX_REMEDY}")
    return Finding(dtype, False, probe.stderr.decode(errors="replace").strip().rpartition("\n")[2])


def _database(db: str | None) -> Finding:
    database = db or default_database()
    try:
        with Store.open(database, read_only=True) as store:
            return Finding("database", True, f"{store.name}, {len(store.choices())} cells tuned")
    except StoreNotFoundError:
        return Finding("database", True, f"none yet at {database}; `autotune tune` makes it")
    except StoreError as error:
        return Finding("database", False, str(error))
