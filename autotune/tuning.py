"""The tuning engine: for each cell, search, measure, store, decide."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autotune.cell_tuner import Session
from autotune.cells import Workload
from autotune.db.location import default_database
from autotune.db.store import Store
from autotune.device_rates import DevicePeak
from autotune.effort import EFFORTS, Effort, Level
from autotune.environment import environment_of, resolve_device
from autotune.observer import CellResult, Observer
from autotune.prior import LEADERS
from autotune.shares import claimed_cells
from autotune.staleness import stale_cells
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.errors import ConfigError
from autotune.strategies.strategy import Strategy
from autotune.studies import open_storage, storage_errors
from autotune.turns import InTurn
from autotune.worker import Deadlines, Worker


def tune(
    workload: Workload | None = None,
    *,
    device: str | None = None,
    strategies: Sequence[str] | None = None,
    effort: Level = "standard",
    trials: int | None = None,
    budget_s: float | None = None,
    memory_limit_bytes: int | None = None,
    force: bool = False,
    reverify: bool = False,
    db: str | Path | None = None,
    observer: Observer | None = None,
    command: str = "autotune.tune()",
) -> list[CellResult]:
    """Measure candidates for every cell of a workload and store everything; what is known is not measured again.

    Args:
        workload: problems and patterns; exact, dilated and local windows at lengths that suit the device if None.
        device: ``cpu``, ``cuda`` or ``cuda:INDEX``; the best one present if None.
        strategies: names to choose from; all if None.
        effort: how hard to search.
        trials: configurations to measure for each cell, instead of the effort's.
        budget_s: stop after so many seconds, with what has been found.
        memory_limit_bytes: peak memory above the inputs that a configuration may take; if None, 80 % of the free
            memory, less the inputs.
        force: run what would be skipped, and again what failed before.
        reverify: race the default and the fastest few of every cell that other software decided, and no workload.
        db: database path or URL; the default database if None.
        observer: told about progress.
        command: noted with the measurements.

    Raises:
        AutotuneError: an argument is out of range, or the database cannot be used.
    """
    target = resolve_device(device)
    environment = environment_of(target)
    chosen = choose_strategies(strategies)
    level = choose_effort(effort, 1 + LEADERS if reverify and trials is None else trials)
    cells = [] if reverify else (workload or Workload()).cells(target)
    deadline = time.monotonic() + budget_s if budget_s is not None else float("inf")
    deadlines = Deadlines(compile_s=level.compile_s, run_s=level.run_s)
    with Store.open(db or default_database()) as store, storage_errors(store), Worker(deadlines) as worker:
        if reverify:
            cells = stale_cells(store.choices(device=target.type), environment, target)
        if not cells:
            return []
        run_id = store.begin_run(command)
        observer = observer or Observer()
        in_turn = InTurn(worker, store, target, observer)
        peaks = {
            dtype: DevicePeak(store, in_turn, run_id, environment, str(target), dtype)
            for dtype in dict.fromkeys(cell.problem.dtype for cell in cells)
        }
        session = Session(
            store=store,
            storage=open_storage(store),
            worker=in_turn,
            peak=peaks[cells[0].problem.dtype],
            environment=environment,
            run_id=run_id,
            strategies=chosen,
            effort=level,
            memory_limit_bytes=memory_limit_bytes,
            deadline=deadline,
            observer=observer,
            force=force,
            reverify=reverify,
        )
        for peak in peaks.values():
            if peak.flops_per_s is None:
                observer.rates_started()
                peak.measure()
        with closing(claimed_cells(store, environment, cells, deadline, observer)) as shared:
            return [
                replace(session, peak=peaks[cell.problem.dtype]).tune_cell(cell, number, len(cells))
                for number, cell in enumerate(shared, start=1)
            ]


def choose_strategies(names: Sequence[str] | None) -> dict[str, Strategy]:
    """The named strategies, or all.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in names or ():
        if name not in STRATEGIES:
            raise ConfigError(f"strategy is {name!r}, but must be one of {', '.join(STRATEGIES)}")
    return {name: strategy for name, strategy in STRATEGIES.items() if not names or name in names}


def choose_effort(level: str, trials: int | None) -> Effort:
    """The effort of that name, with so many trials if a number is given.

    Raises:
        ConfigError: there is none of that name, or fewer than one trial.
    """
    if level not in EFFORTS:
        raise ConfigError(f"effort is {level!r}, but must be one of {', '.join(EFFORTS)}")
    if trials is not None and (not isinstance(trials, int) or trials < 1):
        raise ConfigError(f"trials is {trials!r}, but must be a whole number of at least 1, or None for the effort's")
    effort = EFFORTS[level]
    return effort if trials is None else replace(effort, trials=trials)
