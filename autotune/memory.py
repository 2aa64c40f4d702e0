"""Peak memory of a call, above what was there before it."""

import gc
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from autotune.heap import clean_heap

Result = TypeVar("Result")


def watch_memory(call: Callable[[], Result], device: torch.device, *, exact: bool = True) -> tuple[Result, int]:
    """Run a call once; its result, and its peak memory above the state before, the result included.

    Allocator statistics on CUDA; the process's resident high-water mark on the CPU, for a call that has run before
    (so that libraries are loaded and threads have their stacks).

    Args:
        call: what to run.
        device: whose memory to watch.
        exact: count what the call holds, to a few pages; it takes longer then on the CPU. Otherwise what the heap keeps
            of what the call has freed counts too, some MiB.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, int(torch.cuda.max_memory_allocated(device) - before)
    with clean_heap(exact=exact):
        before = _reset_high_water()
        result = call()
        return result, max(0, _high_water() - before)


def limit_growth(limit_bytes: int) -> None:
    """Make allocations fail once this process has grown by ``limit_bytes`` (private memory, Linux only)."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes("VmData") + limit_bytes, hard))


def lift_limit() -> None:
    """Undo `limit_growth`."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _reset_high_water() -> int:
    """Start a new high-water mark where the kernel allows it; the bytes resident now, or the old mark."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _high_water()  # the mark only ever grows: a call below it counts as nothing
    return _status_bytes("VmRSS")


def _high_water() -> int:
    if sys.platform == "linux":
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024
