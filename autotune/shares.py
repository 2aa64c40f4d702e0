"""The cells of a run, shared with other processes that tune on the same database."""

import time
from collections.abc import Generator, Sequence

from autotune.cells import Cell
from autotune.db.records import Environment
from autotune.db.store import Store
from autotune.observer import Observer

POLL_S = 0.5  # between two looks at cells that others have


def claimed_cells(
    store: Store, environment: Environment, cells: Sequence[Cell], deadline: float, observer: Observer
) -> Generator[Cell]:
    """Every cell once, claimed while the caller works on it; what another process has at the moment comes later.

    A cell comes as soon as its holder is done with it, or dead: what that one measured is then known, and only what
    it left undone is still to do. After the deadline, of the monotonic clock, no other cell comes.
    """
    left = list(cells)
    said = False
    while left:
        others = []
        for cell in left:
            if time.monotonic() >= deadline:
                return
            with store.claim(f"{environment.fingerprint} {cell.problem.key} {cell.pattern.key}") as ours:
                if ours:
                    yield cell
                else:
                    others.append(cell)
        if len(others) == len(left):
            if not said:
                observer.cells_awaited(len(others))
            said = True
            time.sleep(POLL_S)
        left = others
