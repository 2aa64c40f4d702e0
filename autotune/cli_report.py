"""The commands that look: ``report``, ``show`` and ``explain``."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from autotune.binding import FREE_MEMORY_SHARE
from autotune.cli_options import workload
from autotune.db.errors import StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.store import Store
from autotune.environment import distinct_devices, environment_of, free_memory_bytes, resolve_device
from autotune.knowledge import stored_selector, untuned_selector
from autotune.output import write_output
from autotune.reports.formats import render
from autotune.reports.published import read_published
from autotune.reports.source import Source
from autotune.reports.terminal import terminal_summary
from autotune.reports.terminal_choices import terminal_choices
from autotune.selector import Selector
from autotune.standing import nothing_compiled
from autotune.strategies.suites import SUITES
from autotune.units import UnitError, parse_bytes, parse_length


def run_report(
    *, db: str | None, format_name: str | None, output: Path | None, suite: str | None, compare: Path | None
) -> None:
    """Write the report, or print it: a table on a terminal, Markdown otherwise."""
    published = read_published(compare) if compare else []
    with Store.open(db or default_database(), read_only=True) as store:
        source = Source(
            generated=datetime.now(UTC),
            records=store.records(),
            choices=store.choices(),
            rates=store.rates(),
            suite=SUITES[suite] if suite else None,
            published=published,
        )
    if format_name is None and output is None and sys.stdout.isatty():
        Console().print(terminal_summary(source))
        return
    text = render(format_name or "markdown", source)
    if output is None:
        click.echo(text)
        return
    write_output(output, text)
    click.echo(f"Report: {output}")


def run_show(db: str | None) -> None:
    """List the tuned cells."""
    with Store.open(db or default_database(), read_only=True) as store:
        choices, name = store.choices(), store.name
        times_ms = {record.id: record.measurement.time_ms for record in store.records()}
    console = Console()
    console.print(f"Tuned cells in {name}", soft_wrap=True, highlight=False, markup=False)
    here = [environment_of(device) for device in (*distinct_devices(), resolve_device("cpu"))]
    console.print(terminal_choices(choices, times_ms, here, datetime.now(UTC)))


def run_explain(
    *, db: str | None, device: str | None, length: str, query_len: str | None, memory_limit: str | None, **shapes: Any
) -> None:
    """Print the decision for the problem typed in, as a process takes it that has compiled nothing yet."""
    target = resolve_device(device)
    cells = workload(lengths=length, **shapes).cells(target)
    if len({cell.problem for cell in cells}) > 1:
        raise UnitError(f"length is {length!r}, but must be a single one, such as 4096")
    problem = cells[0].problem
    if query_len is not None:
        problem = replace(problem, query_len=parse_length(query_len))
    limit = parse_bytes(memory_limit) if memory_limit else int(FREE_MEMORY_SHARE * free_memory_bytes(target))
    patterns = [cell.pattern for cell in cells]
    click.echo(_selector(db, target).choose(problem, patterns, limit, hindrance=nothing_compiled).text)


def _selector(db: str | None, device: torch.device) -> Selector:
    """What the database knows; without one at the default place, what `attention` would do, and a line that says so.

    Raises:
        StoreError: the database cannot be read, or was named and does not exist.
    """
    try:
        with Store.open(db or default_database(), read_only=True) as store:
            return stored_selector(store, device)
    except StoreNotFoundError as error:
        if db is not None:
            raise
        click.echo(str(error), err=True)
        return untuned_selector(device)
