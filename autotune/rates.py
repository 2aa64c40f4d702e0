"""What a device reaches in plain operations: the bounds that attention is held against."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from autotune.strategies.problem import DTYPES
from autotune.timing import time_once

# Rows and columns. The last keeps every core busy for a while; it is left out where the one before says that it would
# take minutes, as in a dtype for which a processor has no instructions.
MATRICES = {"cpu": (256, 1024, 2048), "cuda": (8192,)}
LONGEST_S = 2.0  # of one product
COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}  # more than any cache
REPEATS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTask:
    """Which rates a worker is asked for."""

    device: str
    dtype: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The best of several repeats of each operation."""

    matmul_flops_per_s: float
    copy_bytes_per_s: float


def measure_rates(task: RateTask) -> Rates:
    """Multiply square matrices, in float32 too where a CPU may widen to it, and copy a large tensor."""
    device, dtype = torch.device(task.device), DTYPES[task.dtype]
    torch.set_num_threads(task.threads)
    copied = COPY_BYTES[device.type]
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    copy_s = _best_s(partial(torch.empty_like(source).copy_, source), device)
    flops_per_s = max(_matmul_flops_per_s(device, computed_in) for computed_in in {dtype, _widened(device, dtype)})
    return Rates(matmul_flops_per_s=flops_per_s, copy_bytes_per_s=2 * copied / copy_s)


def _widened(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What kernels may compute in: those for CPUs widen 16-bit numbers where that is faster."""
    return torch.promote_types(dtype, torch.float32) if device.type == "cpu" else dtype


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    best = 0.0
    for size in MATRICES[device.type]:
        flops = 2 * size**3
        if flops > LONGEST_S * (best or math.inf):
            break
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, flops / _best_s(partial(torch.mm, left, right, out=torch.empty_like(left)), device))
    return best


def _best_s(call: Callable[[], Any], device: torch.device) -> float:
    call()
    return min(time_once(call, device) for _ in range(REPEATS)) / 1e3
