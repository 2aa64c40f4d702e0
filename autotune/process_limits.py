"""How far this process may still grow, by limits of its own and of the container around it; and who grew too far."""

import re
import resource
import sys
from pathlib import Path

UNLIMITED = 1 << 62
CGROUP = Path("/sys/fs/cgroup")
MACHINE = Path("/proc/vmstat")


def process_headroom_bytes() -> int:
    """Bytes until the tightest of the limits on private memory, on address space and of the container."""
    if sys.platform != "linux":
        return UNLIMITED
    status = Path("/proc/self/status").read_text()
    return max(
        0,
        min(
            _below(resource.RLIMIT_DATA, status, "VmData"),
            _below(resource.RLIMIT_AS, status, "VmSize"),
            container_headroom_bytes(CGROUP),
        ),
    )


def container_headroom_bytes(folder: Path) -> int:
    """Bytes until the limit of a control group, version 2; file pages that can be dropped count as free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return UNLIMITED
        used = int((folder / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        return int(limit) - used + (int(cached[1]) if cached else 0)
    except OSError:  # no such group, or none that may be looked into
        return UNLIMITED


def oom_kills(folder: Path = CGROUP, machine: Path = MACHINE) -> int:
    """How many processes the kernel has killed for want of memory: in the container, or else on the whole machine."""
    for counters in (folder / "memory.events", machine):
        try:
            found = re.search(r"^oom_kill (\d+)$", counters.read_text(), re.MULTILINE)
        except OSError:  # no such group, or none that may be looked into
            continue
        if found:
            return int(found[1])
    return 0


def _below(limit: int, status: str, field: str) -> int:
    soft, _ = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED
    used = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return soft - int(used[1]) * 1024 if used else UNLIMITED
