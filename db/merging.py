"""Merging results into a database, by content: what it has already is not added again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.db.errors import StoreError
from autotune.db.queries import Filter, read_results
from autotune.db.records import Choice, Rate, Record, Results
from autotune.db.rows import (
    config_row,
    environment_row,
    measurement_values,
    pattern_row,
    problem_row,
    rate_values,
    run_of,
    run_row,
)
from autotune.db.tables import Base, DecisionRow, Dimension, MeasurementRow, RateRow, RunRow
from autotune.db.writing import same_content

Fact = Record | Choice | Rate
Stored = TypeVar("Stored", Record, Rate)
References = Mapping[str, Mapping[Any, int]]  # ids of what facts share, by kind and content
DIMENSIONS: dict[str, Callable[[Any], Dimension]] = {
    "environment": environment_row,
    "problem": problem_row,
    "pattern": pattern_row,
    "config": config_row,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """How much was new."""

    records: int
    choices: int
    rates: int
    known: int  # facts of all kinds that were there already


def merge(session: Session, results: Results) -> Merged:
    """Add what is not there yet; the caller commits.

    Measurements and rates are known by their uid, a decision and a run by all they say.

    Raises:
        StoreError: a measurement or a rate is there under the same uid with another content.
    """
    _lock_out_writers(session)
    known = read_results(session, Filter())
    records, rates = _new(results.records, known.records), _new(results.rates, known.rates)
    made = set(_by_uid(known))
    choices = [(uid, choice) for uid, choice in _by_uid(results) if (uid, choice) not in made]
    references = _references(session, [*records, *rates, *(choice for _, choice in choices)])
    ids = {record.uid: record.id for record in known.records}
    ids |= _insert_records(session, records, references)
    for uid, choice in choices:
        values = {"measurement_id": ids[uid], "margin": choice.margin, "candidates": choice.candidates}
        session.add(DecisionRow(**values, **_columns(references, choice)))
    for rate in rates:
        session.add(RateRow(**rate_values(rate), **_columns(references, rate)))
    session.flush()
    everything = len(results.records) + len(results.choices) + len(results.rates)
    added = len(records) + len(choices) + len(rates)
    return Merged(records=len(records), choices=len(choices), rates=len(rates), known=everything - added)


def _lock_out_writers(session: Session) -> None:
    """Nobody adds the same meanwhile; readers go on."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        tables = ", ".join(Base.metadata.tables)
        connection.exec_driver_sql(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")


def _new(facts: Sequence[Stored], known: Sequence[Stored]) -> list[Stored]:
    """Those that are not among the known ones."""
    there = {fact.uid: _content(fact) for fact in known}
    for fact in facts:
        if there.get(fact.uid, _content(fact)) != _content(fact):
            raise StoreError(
                f"{type(fact).__name__.lower()} {fact.uid} says something else than the one that is stored under this "
                "uid, so that one of them was edited; nothing was changed, take it out of what is to be added"
            )
    return [fact for fact in facts if fact.uid not in there]


def _content(fact: Stored) -> Stored:
    """The fact without the number that it has in one database."""
    return replace(fact, id=0) if isinstance(fact, Record) else fact


def _by_uid(results: Results) -> list[tuple[str, Choice]]:
    """Decisions, each with the uid of the measurement it rests on in place of its number."""
    uids = {record.id: record.uid for record in results.records}
    return [(uids[choice.measurement_id], replace(choice, measurement_id=0)) for choice in results.choices]


def _insert_records(session: Session, records: Sequence[Record], references: References) -> dict[str, int]:
    """The ids that the records get, by uid."""
    rows = {
        record.uid: MeasurementRow(
            uid=record.uid, **_columns(references, record), **measurement_values(record.measurement)
        )
        for record in records
    }
    session.add_all(rows.values())
    session.flush()
    return {uid: row.id for uid, row in rows.items()}


def _references(session: Session, facts: Sequence[Fact]) -> References:
    """The rows of what the facts share, added where there are none."""
    runs = {run_of(row): row.id for row in session.scalars(select(RunRow))}
    new_runs = {fact.run: run_row(fact.run) for fact in facts if not isinstance(fact, Choice) and fact.run not in runs}
    session.add_all(new_runs.values())
    session.flush()
    found: dict[str, dict[Any, int]] = {"run": runs | {run: row.id for run, row in new_runs.items()}}
    for name, row_of in DIMENSIONS.items():
        shared = dict.fromkeys(getattr(fact, name) for fact in facts if hasattr(fact, name))
        found[name] = _dimension(session, {content: row_of(content) for content in shared})
    return found


def _dimension(session: Session, rows: Mapping[Any, Dimension]) -> dict[Any, int]:
    """Ids by content; a row is added where none has its natural key."""
    ids = {}
    for content, row in rows.items():
        if (found := session.scalar(same_content(row))) is None:
            session.add(row)
            session.flush()
            found = row.id
        ids[content] = found
    return ids


def _columns(references: References, fact: Fact) -> dict[str, Any]:
    """The columns that refer to what a fact shares, and its moment."""
    shared = {f"{name}_id": ids[getattr(fact, name)] for name, ids in references.items() if hasattr(fact, name)}
    return {"created_at": fact.created_at, **shared}
