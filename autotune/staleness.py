"""Cells that were decided by other software, on this kind of device, and not since."""

from collections.abc import Iterable

import torch

from autotune.cells import Cell
from autotune.db.records import Choice, Environment


def stale_cells(choices: Iterable[Choice], here: Environment, device: torch.device) -> list[Cell]:
    """The cells whose decisions nothing has verified with the software of today, the shortest first."""
    known = [choice for choice in choices if choice.environment.is_same_device(here)]
    decided = {(choice.problem, choice.pattern) for choice in known if choice.environment == here}
    stale = dict.fromkeys((choice.problem, choice.pattern) for choice in known if choice.environment != here)
    cells = [Cell(device, problem, pattern) for problem, pattern in stale if (problem, pattern) not in decided]
    return sorted(cells, key=lambda cell: cell.problem.kv_len)
