"""Running a suite: its implementations at every length, measured as a search measures, with nothing searched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autotune.calibration import Calibrations
from autotune.cells import Cell, Workload
from autotune.db.location import default_database
from autotune.db.store import Store
from autotune.device_rates import DevicePeak
from autotune.environment import environment_of, resolve_device
from autotune.forecast import Forecast
from autotune.observer import CellResult, Observer
from autotune.strategies.suite import Suite
from autotune.suite_run import Limits, SuiteRun
from autotune.turns import InTurn
from autotune.worker import Worker


def bench(
    suite: Suite,
    workloads: Sequence[Workload],
    *,
    device: str | None = None,
    limits: Limits | None = None,
    db: str | Path | None = None,
    observer: Observer | None = None,
    command: str = "autotune.bench()",
) -> list[CellResult]:
    """Measure every implementation of a suite at every length and store it; what is stored is not measured again.

    Args:
        suite: the implementations.
        workloads: lengths, shapes, and the patterns that the names stand for; all of one dtype.
        device: ``cpu``, ``cuda`` or ``cuda:INDEX``; the best one present if None.
        limits: what is not run.
        db: database path or URL; the default database if None.
        observer: told about progress.
        command: noted with the measurements.

    Raises:
        AutotuneError: an argument is out of range, or the database cannot be used.
    """
    target, limits = resolve_device(device), limits or Limits()
    found = dict.fromkeys(cell for work in workloads for cell in work.cells(target) if suite.of(cell.pattern))
    cells = sorted(found, key=lambda cell: (cell.problem.direction, cell.problem.query_len))
    if not cells:
        return []
    with open_run(suite, cells[0], limits, db, observer, command) as run:
        return run.measure(cells)


@contextmanager
def open_run(
    suite: Suite, like: Cell, limits: Limits, db: str | Path | None, observer: Observer | None, command: str
) -> Iterator[SuiteRun]:
    """A run with its database and worker, on the device and in the dtype of a cell; see `bench`."""
    environment = environment_of(like.device)
    with Store.open(db or default_database()) as store, Worker(limits.deadlines) as worker:
        choices = store.choices(environment_fingerprint=environment.fingerprint)
        suite = suite.deciding({(choice.problem, choice.pattern): choice.config for choice in choices})
        run_id, observer = store.begin_run(command), observer or Observer()
        in_turn = InTurn(worker, store, like.device, observer)
        yield SuiteRun(
            suite=suite,
            environment=environment,
            store=store,
            worker=in_turn,
            peak=DevicePeak(store, in_turn, run_id, environment, str(like.device), like.problem.dtype),
            run_id=run_id,
            limits=limits,
            observer=observer,
            forecast=Forecast(suite),
            calibrations=Calibrations(store.records(environment_fingerprint=environment.fingerprint)),
        )
