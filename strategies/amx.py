"""Flash attention for CPUs with AMX in C++ of our own, which multiplies tiles of bfloat16."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch

from autotune.strategies.errors import UnsupportedError
from autotune.strategies.lanes import SCRATCH_BYTES, CpuLanes, Fold, prototyped
from autotune.strategies.native import library
from autotune.strategies.problem import Problem

AMX = "amx"
SOURCE = Path(__file__).with_name("flash_amx.cpp")
FLAGS = ("-mavx512bw", "-mavx512bf16", "-mamx-tile", "-mamx-bf16")
CPU_INFO = Path("/proc/cpuinfo")


@cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16, and nobody said that it must not.

    Processors that say so and do not can be told apart by nothing but a crash; ``ONEDNN_MAX_CPU_ISA`` is the remedy for
    torch's own kernels, and holds for ours.
    """
    allowed = (os.environ.get("ONEDNN_MAX_CPU_ISA") or "DEFAULT").upper()
    if not ("AMX" in allowed or allowed in ("DEFAULT", "ALL")) or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return CPU_INFO.exists() and {"amx_bf16", "avx512_bf16"} <= set(CPU_INFO.read_text().split())


@dataclass(frozen=True)
class CpuAmx(CpuLanes):
    """Forward in tiles of bfloat16, to which the weights are rounded too, as by torch's kernel; backward in float32."""

    name: ClassVar[str] = AMX
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def refusal(self, problem: Problem) -> str | None:
        """See `CpuLanes`."""
        known = super().refusal(problem)
        return known if known or has_amx() else "needs a processor with AMX, and an ONEDNN_MAX_CPU_ISA that allows it"

    def fold_of(self, dtype: str, head_dim: int) -> Fold:
        """See `CpuLanes`."""
        return _fold(head_dim)


@cache
def _fold(head_dim: int) -> Fold:
    """The source file compiled for a head_dim.

    Raises:
        UnsupportedError: it cannot be compiled here, or the system does not let a process use AMX.
    """
    found = library(SOURCE, *FLAGS, HEAD_DIM=head_dim, ELEMENT="BFloat16", SCRATCH_BYTES=SCRATCH_BYTES)
    if not found.permitted():
        raise UnsupportedError(f"kernel {AMX} needs AMX, which the system does not let this process use")
    return prototyped(found)
