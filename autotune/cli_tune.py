"""The ``tune`` command: read the options, run the engine, show progress, say where the results are."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from autotune.cli_options import workload
from autotune.db.location import default_database
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.effort import Level
from autotune.environment import distinct_devices
from autotune.observer import CellResult
from autotune.progress import Progress
from autotune.reports.source import Source
from autotune.reports.terminal import terminal_summary
from autotune.tuning import tune
from autotune.units import parse_bytes, parse_seconds

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def run_tune(
    *,
    db: str | None,
    command: str,
    device: str | None,
    strategies: tuple[str, ...],
    effort: Level,
    trials: int | None,
    budget: str | None,
    memory_limit: str | None,
    force: bool,
    **shapes: Any,
) -> None:
    """Tune each device asked for, then print the winners and the database's place."""
    work = workload(**shapes)
    devices = [str(each) for each in distinct_devices()] if device == "all" else [device]
    database = db or default_database()
    console = Console()
    results: list[CellResult] = []
    for name in devices:
        try:
            with Progress(console) as progress:
                results += tune(
                    work,
                    device=name,
                    strategies=strategies or None,
                    effort=effort,
                    trials=trials,
                    budget_s=parse_seconds(budget) if budget else None,
                    memory_limit_bytes=parse_bytes(memory_limit) if memory_limit else None,
                    force=force,
                    db=database,
                    observer=progress,
                    command=command,
                )
        except KeyboardInterrupt:
            click.echo(f"\nStopped. Every finished measurement is in {database}; resume with:\n  {command}", err=True)
            raise SystemExit(INTERRUPTED) from None
    with Store.open(database, read_only=True) as store:
        source = Source(
            generated=datetime.now(UTC), records=store.records(), choices=store.choices(), rates=store.rates()
        )
        console.print(terminal_summary(source))
        print_failures(console, results)
        console.print(f"Database: {store.name}", soft_wrap=True, highlight=False)


def print_failures(console: Console, results: Iterable[CellResult]) -> None:
    """Say what is not ok, and how to have it run again."""
    statuses = Counter(m.status for result in results for m in result.tried.values() if m.status is not Status.OK)
    if statuses:
        counted = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
        console.print(f"Not ok: {counted}; the reasons are above and in the report, and --force runs them again")
