"""Flash attention for CPUs in C++ of our own, which folds its results into the running softmax as it goes."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from autotune.strategies.errors import ProblemError
from autotune.strategies.kernels import CpuFlash
from autotune.strategies.native import compiler, library
from autotune.strategies.problem import Problem
from autotune.strategies.tiles import Tile

LANES = "lanes"
SOURCE = Path(__file__).with_name("flash_lanes.cpp")
ELEMENTS = {"float32": "float", "float16": "Float16", "bfloat16": "BFloat16"}
MOST_HEAD_DIM = 512
SCRATCH_BYTES = 300 << 10  # of a thread, at most: the `Scratch` of the source file


def scratch_bytes() -> int:
    """What a call works on beside its operands, on all threads."""
    return torch.get_num_threads() * SCRATCH_BYTES


def lanes_refusal(problem: Problem) -> str | None:
    """Why the kernel cannot run a problem's tiles, in one clause; None if it can."""
    if problem.dtype not in ELEMENTS:
        return f"computes in float32, but the dtype is {problem.dtype}"
    if problem.head_dim > MOST_HEAD_DIM:
        return f"takes a head_dim of at most {MOST_HEAD_DIM}, not {problem.head_dim}"
    return None if compiler() else "needs a C++ compiler: install one, or name it in CXX"


@dataclass(frozen=True)
class CpuLanes(CpuFlash):
    """Neighbouring queries in the lanes of a vector, so that tiles of 128 queries are as fast as those of thousands.

    Operands are widened to float32 block by block; results are merged where they belong. Gradients are torch's.
    """

    def fold(
        self,
        tile: Tile,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        total: torch.Tensor,
        total_lse: torch.Tensor,
        scale: float,
    ) -> None:
        """Fold softmax(query key^T) value into the running softmax of the tile's rows, in place.

        Args:
            tile: whose causality, multiplicity and freshness count here.
            query: shape (B, H, Lq, D).
            key: shape (B, H, Lk, D).
            value: shape (B, H, Lk, D).
            total: running output, float32, shape (B, H, Lq, D).
            total_lse: its log-sum-exp, float32, shape (B, H, Lq).
            scale: factor on the scores, above 0.

        Raises:
            ProblemError: query, key and value do not go together, or are not on the CPU.
            UnsupportedError: the kernel cannot be compiled here.
        """
        _require_alike(query, key, value)
        operands = (query, key, value, total, total_lse)
        batch, heads, rows, head_dim = query.shape
        sizes = (ctypes.c_int64 * 4)(batch, heads, rows, key.shape[2])
        strides = (ctypes.c_int64 * 15)(*(step for x in operands for step in x.stride()[:3]))
        function(str(query.dtype).removeprefix("torch."), head_dim)(
            *(x.data_ptr() for x in operands),
            sizes,
            strides,
            scale,
            math.log(tile.multiplicity),
            tile.causal,
            tile.fresh,
            torch.get_num_threads(),
        )


def _require_alike(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """The C++ reads what it is told is there.

    Raises:
        ProblemError: they differ in dtype or in a size that they share, or are not on the CPU.
    """
    (batch, heads, _, head_dim), (_, _, keys, _) = query.shape, key.shape
    alike = key.shape == value.shape == (batch, heads, keys, head_dim) and query.dtype == key.dtype == value.dtype
    if not alike or query.device.type != "cpu" or str(query.dtype).removeprefix("torch.") not in ELEMENTS:
        said = "; ".join(f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (query, key, value))
        raise ProblemError(
            f"query, key and value are {said}, but kernel {LANES} takes them on the CPU, of one dtype among "
            f"{', '.join(ELEMENTS)}, key and value of one shape that has the query's batch, heads and head_dim"
        )


@cache
def function(dtype: str, head_dim: int) -> Callable[..., None]:
    """`fold` of the source file, compiled for a dtype and a head_dim.

    Raises:
        UnsupportedError: it cannot be compiled here.
    """
    fold = library(SOURCE, HEAD_DIM=head_dim, ELEMENT=ELEMENTS[dtype]).fold
    fold.argtypes = [*[ctypes.c_void_p] * 7, *[ctypes.c_float] * 2, *[ctypes.c_int] * 3]
    fold.restype = None
    return fold
