"""What a device reaches in plain operations: the bounds that attention is held against."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from autotune.strategies.problem import DTYPES
from autotune.timing import time_once

MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns: enough to keep every core busy for a while
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
    """Multiply large square matrices, and copy a large tensor."""
    device, dtype = torch.device(task.device), DTYPES[task.dtype]
    torch.set_num_threads(task.threads)
    size, copied = MATRIX[device.type], COPY_BYTES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    matmul_s = _best_s(partial(torch.mm, left, right, out=torch.empty_like(left)), device)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    copy_s = _best_s(partial(torch.empty_like(source).copy_, source), device)
    return Rates(matmul_flops_per_s=2 * size**3 / matmul_s, copy_bytes_per_s=2 * copied / copy_s)


def _best_s(call: Callable[[], Any], device: torch.device) -> float:
    call()
    return min(time_once(call, device) for _ in range(REPEATS)) / 1e3
