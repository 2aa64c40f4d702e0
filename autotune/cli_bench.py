"""The commands ``bench`` and ``limits``: run a suite, show progress, say what came of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from autotune.bench import bench
from autotune.cli_options import suite_workloads
from autotune.cli_tune import INTERRUPTED, print_failures
from autotune.db.location import default_database
from autotune.db.records import Record
from autotune.db.store import Store
from autotune.environment import environment_of, resolve_device
from autotune.limits import Reach, find_limits
from autotune.observer import CellResult
from autotune.progress import Progress
from autotune.reports.source import Source
from autotune.reports.terminal import terminal_summary
from autotune.strategies.suites import SUITES
from autotune.suite_run import Limits
from autotune.units import format_bytes, format_ms, parse_bytes, parse_length, parse_seconds


def run_bench(
    *,
    db: str | None,
    command: str,
    suite: str,
    implementations: tuple[str, ...],
    device: str | None,
    lengths: str | None,
    time_limit: str,
    memory_limit: str | None,
    force: bool,
    **shapes: Any,
) -> None:
    """Measure the suite, print its table, and say where everything is."""
    chosen, database, console = SUITES[suite].only(implementations), db or default_database(), Console()
    workloads = suite_workloads(chosen, lengths=lengths, **shapes)
    try:
        with Progress(console, chosen.name_of) as progress:
            results = bench(
                chosen,
                workloads,
                device=device,
                limits=_limits(time_limit, memory_limit, force),
                db=database,
                observer=progress,
                command=command,
            )
    except KeyboardInterrupt:
        _stop(database, command)
    here = environment_of(resolve_device(device)).fingerprint
    with Store.open(database, read_only=True) as store:
        records = _of_the_run(results, store.records(environment_fingerprint=here))
        source = Source(
            generated=datetime.now(UTC), records=records, choices=store.choices(), rates=store.rates(), suite=chosen
        )
    console.print(terminal_summary(source))
    print_failures(console, results)
    console.print(f"Database: {store.name}", soft_wrap=True, highlight=False)


def _of_the_run(results: Sequence[CellResult], records: Sequence[Record]) -> list[Record]:
    """The records of a run's problems, and of what was timed in turn with them."""
    problems = {result.cell.problem for result in results}
    races = {record.measurement.race for record in records if record.problem in problems} - {None}
    return [record for record in records if record.problem in problems or record.measurement.race in races]


def run_limits(
    *,
    db: str | None,
    command: str,
    suite: str,
    implementations: tuple[str, ...],
    device: str | None,
    shortest: str,
    longest: str,
    time_limit: str,
    memory_limit: str | None,
    **shapes: Any,
) -> None:
    """Find how far each implementation comes, and print the table."""
    chosen, database, console = SUITES[suite], db or default_database(), Console()
    (work,) = suite_workloads(chosen, lengths=None, **shapes)
    found: list[Reach] = []
    try:
        with Progress(console, chosen.name_of) as progress:
            reaches = find_limits(
                chosen,
                work,
                device=device,
                limits=_limits(time_limit, memory_limit, force=False),
                names=implementations,
                shortest=parse_length(shortest),
                longest=parse_length(longest),
                db=database,
                observer=progress,
                command=command,
            )
            found.extend(reaches)  # keeps what came before an interruption
    except KeyboardInterrupt:
        console.print(_reaches(found, time_limit, memory_limit))
        _stop(database, command)
    console.print(_reaches(found, time_limit, memory_limit))


def _limits(time_limit: str, memory_limit: str | None, force: bool) -> Limits:
    memory_bytes = parse_bytes(memory_limit) if memory_limit else None
    return Limits(call_s=parse_seconds(time_limit, "time limit"), memory_bytes=memory_bytes, force=force)


def _stop(database: object, command: str) -> NoReturn:
    click.echo(f"\nStopped. Every finished measurement is in {database}; resume with:\n  {command}", err=True)
    raise SystemExit(INTERRUPTED) from None


def _reaches(found: list[Reach], time_limit: str, memory_limit: str | None) -> Table:
    title = f"Longest sequence within {time_limit} a call and {memory_limit or 'the memory there is'} above the inputs"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("implementation", no_wrap=True)
    for column in ("tokens", "time", "peak memory"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why not longer", overflow="fold")
    for reach in found:
        time_ms = reach.measurement.time_ms if reach.measurement else None
        peak = reach.measurement.peak_memory_bytes if reach.measurement else None
        table.add_row(
            reach.name,
            "none" if reach.seq_len is None else f"{reach.seq_len:,}",
            "-" if time_ms is None else format_ms(time_ms),
            "-" if peak is None else format_bytes(peak),
            f"{reach.stopped_at:,}: {reach.reason}" if reach.stopped_at else reach.reason,
        )
    return table
