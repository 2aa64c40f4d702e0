"""Writing: runs, measurements, decisions and rates, each committed on return; what they share is stored once."""

from collections.abc import Mapping

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from autotune.db.records import Environment, Measurement
from autotune.db.rows import config_row, environment_row, measurement_values, pattern_row, problem_row
from autotune.db.tables import DecisionRow, Dimension, MeasurementRow, RateRow, RunRow
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

References = Mapping[str, int]  # ids of what a fact shares with others, by column


def same_content(row: Dimension) -> Select[int]:
    """What asks for the id of the stored row with the same content."""
    table = type(row)
    return select(table.id).where(getattr(table, row.natural_key) == getattr(row, row.natural_key))


def identify(session: Session, row: Dimension) -> int:
    """The id of the stored row with the same content; inserted and committed if there is none.

    Each step is a transaction: SQLite lets none write that has read before another process wrote.
    """
    same = same_content(row)
    with session.begin():
        found = session.scalar(same)
    if found is not None:
        return found
    try:
        with session.begin():
            session.add(row)
    except IntegrityError:  # another process was faster
        with session.begin():
            return session.scalars(same).one()
    return row.id


def identify_environment(session: Session, environment: Environment) -> References:
    """The id of an environment, inserted and committed if there is none."""
    return {"environment_id": identify(session, environment_row(environment))}


def identify_cell(
    session: Session, environment: Environment, problem: Problem, pattern: Pattern, config: Config
) -> References:
    """The ids of a configuration and its cell, each inserted and committed if there is none."""
    return {
        **identify_environment(session, environment),
        "problem_id": identify(session, problem_row(problem)),
        "pattern_id": identify(session, pattern_row(pattern)),
        "config_id": identify(session, config_row(config)),
    }


def insert_run(session: Session, command: str) -> int:
    """Note that an invocation begins, and return its id."""
    row = RunRow(command=command)
    with session.begin():
        session.add(row)
    return row.id


def insert_measurement(session: Session, run_id: int, cell: References, measurement: Measurement) -> int:
    """Insert a measurement, and return its id."""
    row = _measurement_row(run_id, cell, measurement)
    with session.begin():
        session.add(row)
    return row.id


def insert_decision(
    session: Session, cell: References, measurement_id: int, margin: float | None, candidates: int
) -> None:
    """Insert what a search settled on."""
    with session.begin():
        session.add(DecisionRow(measurement_id=measurement_id, margin=margin, candidates=candidates, **cell))


def insert_race(
    session: Session,
    run_id: int,
    cells: Mapping[Config, References],
    raced: Mapping[Config, Measurement],
    winner: Config | None,
    margin: float | None,
    candidates: int,
) -> dict[Config, int]:
    """Insert the measurements of a race and what it decided, all or nothing, and return the ids of the former."""
    rows = {config: _measurement_row(run_id, cells[config], measurement) for config, measurement in raced.items()}
    with session.begin():
        session.add_all(rows.values())
        session.flush()
        if winner is not None:
            of_winner = {"measurement_id": rows[winner].id, **cells[winner]}
            session.add(DecisionRow(margin=margin, candidates=candidates, **of_winner))
    return {config: row.id for config, row in rows.items()}


def insert_rate(
    session: Session,
    run_id: int,
    environment: References,
    dtype: str,
    matmul_flops_per_s: float,
    copy_bytes_per_s: float,
) -> int:
    """Insert what a device reached in plain operations, and return its id."""
    row = RateRow(
        run_id=run_id,
        dtype=dtype,
        matmul_flops_per_s=matmul_flops_per_s,
        copy_bytes_per_s=copy_bytes_per_s,
        **environment,
    )
    with session.begin():
        session.add(row)
    return row.id


def _measurement_row(run_id: int, cell: References, measurement: Measurement) -> MeasurementRow:
    return MeasurementRow(run_id=run_id, **cell, **measurement_values(measurement))
