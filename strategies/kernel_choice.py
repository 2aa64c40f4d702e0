"""Which kernels can run a problem's tiles, by name."""

import torch

from autotune.strategies.amx import AMX, CpuAmx
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.kernels import CpuFlash, CudaEfficient, CudaFlash, Kernel
from autotune.strategies.lanes import LANES, CpuLanes
from autotune.strategies.problem import Problem

# Of our own, for CPUs: they merge their results where they belong.
FOLDING: dict[str, CpuLanes] = {LANES: CpuLanes(), AMX: CpuAmx()}


def kernel_names(problem: Problem) -> tuple[str, ...]:
    """The kernels that can run a problem's tiles, the preferred one first."""
    if problem.device == "cpu":
        return ("flash", *(name for name, kernel in FOLDING.items() if kernel.refusal(problem) is None))
    ampere = cuda_capability() >= (8, 0)
    half, dim = problem.dtype in ("float16", "bfloat16"), problem.head_dim
    flash = ("flash",) if half and ampere and dim % 8 == 0 and dim <= 256 else ()
    aligned = dim % (8 if half else 4) == 0 and problem.dtype != "float64"
    efficient = ("efficient",) if aligned and (ampere or problem.dtype != "bfloat16") else ()
    return (*flash, *efficient)


def cuda_capability() -> tuple[int, int]:
    """Compute capability of the current CUDA device; (0, 0) where there is none."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def kernel_by_name(problem: Problem, name: str) -> Kernel | CpuLanes:
    """The kernel of that name for the problem's device.

    Raises:
        UnsupportedError: the device, dtype or head_dim has no such kernel, or it cannot be compiled here.
    """
    if problem.device == "cpu" and (kernel := FOLDING.get(name)):
        if (reason := kernel.refusal(problem)) is not None:
            raise UnsupportedError(f"kernel {name} {reason}")
        kernel.compile(problem)
        return kernel
    if name not in (names := kernel_names(problem)):
        raise UnsupportedError(
            f"kernel is {name!r}, but {problem.device} with {problem.dtype} and head_dim {problem.head_dim} has "
            f"{', '.join(names) or 'none'}"
        )
    if problem.device == "cpu":
        return CpuFlash()
    return CudaFlash() if name == "flash" else CudaEfficient()
