"""How much memory a configuration may take in a cell."""

from autotune.cells import Cell
from autotune.environment import free_memory_bytes

MEMORY_SHARE = 0.8  # of the free memory, where no limit is given


def memory_limit(cell: Cell, asked_bytes: int | None) -> int:
    """Peak memory above the inputs: what is asked for; if None, what the device has left now beside the inputs."""
    if asked_bytes is not None:
        return asked_bytes
    inputs = cell.problem.output_bytes + (cell.problem.kv_bytes if cell.problem.kv_home == "device" else 0)
    return max(0, int(MEMORY_SHARE * free_memory_bytes(cell.device)) - inputs)
