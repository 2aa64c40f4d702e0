"""Flash attention for CPUs in C++ of our own, which folds its results into the running softmax as it goes."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch

from autotune.strategies.errors import ProblemError
from autotune.strategies.native import compiler, library
from autotune.strategies.problem import Problem
from autotune.strategies.tiles import Tile

LANES = "lanes"
SOURCE = Path(__file__).with_name("flash_lanes.cpp")
ELEMENTS = {"float32": "float", "float16": "Float16", "bfloat16": "BFloat16"}
MOST_HEAD_DIM = 512
Fold = Callable[..., None]  # of a `FoldCall` and the number of threads
ANOTHER, NOTHING, NARROW = range(3)  # see `Found` of flash.h
SCRATCH_BYTES = 700 << 10  # of a thread, at most, in either source file


def scratch_bytes() -> int:
    """What a call works on beside its operands, on all threads."""
    return torch.get_num_threads() * SCRATCH_BYTES


def _fields(operands: int, **others: type) -> tuple[tuple[str, type], ...]:
    """Of a structure for a call with so many operands."""
    return (
        ("operands", ctypes.c_void_p * operands),
        ("sizes", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 3 * operands),  # of batch, head and row
        ("scale", ctypes.c_float),
        *others.items(),
    )


class FoldCall(ctypes.Structure):
    """``Fold`` of flash.h."""

    _fields_ = _fields(5, log_multiplicity=ctypes.c_float, causal=ctypes.c_int, found=ctypes.c_int)


class UnfoldCall(ctypes.Structure):
    """``Unfold`` of flash_lanes.cpp."""

    _fields_ = _fields(9, causal=ctypes.c_int)


@dataclass(frozen=True)
class CpuLanes:
    """Neighbouring queries in the lanes of a vector, so that tiles of 128 queries are as fast as those of thousands.

    Operands are widened to float32 block by block; results are merged where they belong.
    """

    name: ClassVar[str] = LANES
    dtypes: ClassVar[tuple[str, ...]] = tuple(ELEMENTS)

    def refusal(self, problem: Problem) -> str | None:
        """Why it cannot run a problem's tiles, in one clause; None if it can."""
        if problem.dtype not in self.dtypes:
            return f"takes {' or '.join(self.dtypes)}, but the dtype is {problem.dtype}"
        if problem.head_dim > MOST_HEAD_DIM:
            return f"takes a head_dim of at most {MOST_HEAD_DIM}, not {problem.head_dim}"
        return None if compiler() else "needs a C++ compiler: install one, or name it in CXX"

    def compile(self, problem: Problem) -> None:
        """Compile what a problem needs now, and not in the first call.

        Raises:
            UnsupportedError: it cannot be compiled here.
        """
        self.fold_of(problem.dtype, problem.head_dim)
        if problem.training:
            functions(problem.dtype, problem.head_dim)

    def fold_of(self, dtype: str, head_dim: int) -> Fold:
        """What folds operands of a dtype and a head_dim.

        Raises:
            UnsupportedError: it cannot be compiled here.
        """
        return functions(dtype, head_dim).fold

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
            total: running output, float32, shape (B, H, Lq, D); of the query's dtype where no other tile has its rows.
            total_lse: its log-sum-exp, float32, shape (B, H, Lq).
            scale: factor on the scores, above 0.

        Raises:
            ProblemError: query, key and value do not go together, or are not on the CPU, or total is rounded too early.
            UnsupportedError: the kernel cannot be compiled here.
        """
        self._require_alike(query, key, value)
        if total.dtype != torch.float32 and not (tile.fresh and total.dtype == query.dtype):
            raise ProblemError(f"total is {total.dtype}, but must be float32, or {query.dtype} if the tile is fresh")
        operands = (query, key, value, total, total_lse)
        batch, heads, rows, head_dim = query.shape
        call = FoldCall(
            *_located(operands, (batch, heads, rows, key.shape[2])),
            scale,
            math.log(tile.multiplicity),
            tile.causal,
            NARROW if total.dtype != torch.float32 else NOTHING if tile.fresh else ANOTHER,
        )
        self.fold_of(_name(query.dtype), head_dim)(ctypes.byref(call), torch.get_num_threads())

    def unfold(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
        d_query: torch.Tensor,
        d_key: torch.Tensor,
        d_value: torch.Tensor,
    ) -> None:
        """Add the gradients that `Kernel.backward` gives to those of query, key and value, in place.

        Args:
            grad: shape (B, H, Lq, D).
            query: shape (B, H, Lq, D).
            key: shape (B, H, Lk, D).
            value: shape (B, H, Lk, D).
            out: shape (B, H, Lq, D).
            lse: float32, shape (B, H, Lq).
            causal: whether query t sees the keys 0 .. t only.
            scale: factor on the scores, above 0.
            d_query: float32, shape (B, H, Lq, D); no two of its rows are one.
            d_key: float32, shape (B, H, Lk, D); rows of batch elements may be the same, also those of ``d_value``.
            d_value: float32, shape (B, H, Lk, D).

        Raises:
            ProblemError: query, key and value do not go together, or are not on the CPU.
            UnsupportedError: the kernel cannot be compiled here.
        """
        self._require_alike(query, key, value)
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        operands = (grad, query, key, value, out, lse, d_query, d_key, d_value)
        batch, heads, rows, head_dim = query.shape
        call = UnfoldCall(*_located(operands, (batch, heads, rows, key.shape[2])), scale, causal)
        functions(_name(query.dtype), head_dim).unfold(ctypes.byref(call), torch.get_num_threads())

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of query, key and value, float32; see `Kernel.backward`."""
        gradients = torch.zeros(query.shape), torch.zeros(key.shape), torch.zeros(value.shape)
        self.unfold(grad, query, key, value, out, lse, causal, scale, *gradients)
        return gradients

    def _require_alike(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """The C++ reads what it is told is there.

        Raises:
            ProblemError: they differ in dtype or in a size that they share, or are not on the CPU.
        """
        (batch, heads, _, head_dim), (_, _, keys, _) = query.shape, key.shape
        alike = key.shape == value.shape == (batch, heads, keys, head_dim) and query.dtype == key.dtype == value.dtype
        if not alike or query.device.type != "cpu" or _name(query.dtype) not in self.dtypes:
            said = "; ".join(f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (query, key, value))
            raise ProblemError(
                f"query, key and value are {said}, but kernel {self.name} takes them on the CPU, of one dtype among "
                f"{', '.join(self.dtypes)}, key and value of one shape that has the query's batch, heads and head_dim"
            )


def _located(operands: Sequence[torch.Tensor], sizes: tuple[int, ...]) -> tuple[tuple[object, ...], ...]:
    """The first fields of a call: addresses, sizes, strides."""
    return tuple(x.data_ptr() for x in operands), sizes, tuple(x.stride()[:3] for x in operands)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Functions:
    """Those of the source file, compiled for a dtype and a head_dim."""

    fold: Fold
    unfold: Callable[..., None]


@cache
def functions(dtype: str, head_dim: int) -> Functions:
    """The source file compiled for a dtype and a head_dim.

    Raises:
        UnsupportedError: it cannot be compiled here.
    """
    found = library(SOURCE, HEAD_DIM=head_dim, ELEMENT=ELEMENTS[dtype], SCRATCH_BYTES=SCRATCH_BYTES)
    found.unfold.argtypes = [ctypes.POINTER(UnfoldCall), ctypes.c_int]
    found.unfold.restype = None
    return Functions(prototyped(found), found.unfold)


def prototyped(found: ctypes.CDLL) -> Fold:
    """``fold`` of a library, told what it takes."""
    fold = found.fold
    fold.argtypes = [ctypes.POINTER(FoldCall), ctypes.c_int]
    fold.restype = None
    return fold
