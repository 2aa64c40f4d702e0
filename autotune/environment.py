"""The device and software that measurements are taken on."""

import platform
import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from autotune.db.records import Environment
from autotune.process_limits import process_headroom_bytes
from autotune.strategies.errors import AutotuneError

GIB = 1 << 30


class DeviceError(AutotuneError, ValueError):
    """A device that does not exist here."""


def resolve_device(name: str | None = None) -> torch.device:
    """The device of that name, with its index; the best one present if None.

    Raises:
        DeviceError: the name is malformed, or there is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise DeviceError(f"device is {name!r}, but must be cpu, cuda, cuda:INDEX or all")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(index or 0)
    if number >= count:
        raise DeviceError(f"device is {name!r}, but this machine has {count} CUDA devices; use --device cpu")
    return torch.device("cuda", number)


def distinct_devices() -> list[torch.device]:
    """One device of each kind of GPU on this host; the CPU where there is none."""
    if not torch.cuda.is_available():
        return [torch.device("cpu")]
    first: dict[tuple[str, int], torch.device] = {}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        first.setdefault((properties.name, properties.total_memory), torch.device("cuda", index))
    return list(first.values())


def environment_of(device: torch.device) -> Environment:
    """Describe a device and the software that drives it."""
    cpu = cpu_name()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
        capability = f"{properties.major}.{properties.minor}"
    else:
        name, memory = cpu, psutil.virtual_memory().total
        capability = torch.backends.cpu.get_cpu_capability()
    return Environment(
        device=device.type,
        device_name=name,
        device_memory_bytes=-(-memory // GIB) * GIB,  # kernels and drivers keep some MiB for themselves, each its own
        capability=capability,
        driver=_cuda_driver() if device.type == "cuda" else "",
        cpu_name=cpu,
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        triton_version=_installed("triton"),
        cuda_version=torch.version.cuda or "",
        python_version=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
    )


def device_identity(device: torch.device) -> str:
    """What every process that uses this very device calls it, also from inside a container, and no other device is."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def free_memory_bytes(device: torch.device) -> int:
    """Memory that a call could take now, what torch has cached but not in use included, the process's limits obeyed."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(int(psutil.virtual_memory().available), process_headroom_bytes())


@lru_cache
def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cuda_driver() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    number = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return number[0] if number else "unknown"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
