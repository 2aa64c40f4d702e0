"""The commands that share: ``export``, ``import`` and ``merge``."""

from pathlib import Path

import click

from autotune.db.errors import StoreError
from autotune.db.location import default_database
from autotune.db.records import Results
from autotune.db.results_reader import read_results_file
from autotune.db.results_writer import results_text
from autotune.db.store import Store
from autotune.output import write_output

DEVICE_TYPES = ("cpu", "cuda")


def run_export(*, db: str | None, output: Path | None, device: str | None) -> None:
    """Write what is stored as JSON, or print it."""
    with Store.open(db or default_database(), read_only=True) as store:
        if device is None:
            results = store.results()
        elif device in DEVICE_TYPES:
            results = store.results(device=device)
        else:
            results = store.results(device_name=device)
        if not results.records:
            raise StoreError(_nothing(store, device))
    text = results_text(results)
    if output is None:
        click.echo(text, nl=False)
        return
    write_output(output, text)
    click.echo(f"{output}: {_counted(len(results.records), len(results.choices), len(results.rates))}")


def run_import(*, db: str | None, file: Path) -> None:
    """Add what an export holds and the database does not."""
    _merge(db, read_results_file(file))


def run_merge(*, db: str | None, other: str) -> None:
    """Add what another database holds and this one does not."""
    with Store.open(other, read_only=True) as store:
        results = store.results()
    _merge(db, results)


def _merge(db: str | None, results: Results) -> None:
    with Store.open(db or default_database()) as store:
        merged = store.merge(results)
        added = _counted(merged.records, merged.choices, merged.rates)
        click.echo(f"Added to {store.name}: {added}; {merged.known:,} known already")


def _counted(records: int, choices: int, rates: int) -> str:
    parts = ((records, "measurement"), (choices, "decision"), (rates, "rate"))
    return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in parts)


def _nothing(store: Store, device: str | None) -> str:
    names = sorted({record.environment.device_name for record in store.records()})
    if not names:
        return f"database {store.name} holds no measurement; run `autotune tune` first"
    return f"device is {device!r}, but database {store.name} holds measurements of {', '.join(names)}"
