"""Reading: measurements, decisions and rates that match a filter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from autotune.db import rows
from autotune.db.records import Choice, Environment, Rate, Record, Results
from autotune.db.tables import (
    CellRow,
    ConfigRow,
    DecisionRow,
    EnvironmentRow,
    MeasurementRow,
    PatternRow,
    ProblemRow,
    RateRow,
    RunRow,
)
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

Row = TypeVar("Row", RunRow, EnvironmentRow, ProblemRow, PatternRow, ConfigRow)
Fact = TypeVar("Fact")
Reference = InstrumentedAttribute[int]
REFERENCES = (
    MeasurementRow.run_id,
    MeasurementRow.environment_id,
    MeasurementRow.problem_id,
    MeasurementRow.pattern_id,
    MeasurementRow.config_id,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFilter:
    """Which environments are wanted; None stands for all."""

    environment_fingerprint: str | None = None
    device: str | None = None  # device type: "cpu" or "cuda"
    device_name: str | None = None

    def environment_conditions(self, about: type[CellRow] | type[RateRow]) -> list[ColumnElement[bool]]:
        """What joins the environment to the table ``about``, and keeps what is wanted."""
        conditions: list[ColumnElement[bool]] = [about.environment_id == EnvironmentRow.id]
        if self.environment_fingerprint is not None:
            conditions.append(EnvironmentRow.fingerprint == self.environment_fingerprint)
        if self.device is not None:
            conditions.append(EnvironmentRow.device == self.device)
        if self.device_name is not None:
            conditions.append(EnvironmentRow.device_name == self.device_name)
        return conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(EnvironmentFilter):
    """Which cells are wanted; None stands for all."""

    problem: Problem | None = None
    pattern: Pattern | None = None

    def conditions(self, about: type[CellRow]) -> list[ColumnElement[bool]]:
        """What joins cell and configuration to the table ``about``, and keeps what is wanted."""
        conditions = [
            *self.environment_conditions(about),
            about.problem_id == ProblemRow.id,
            about.pattern_id == PatternRow.id,
            about.config_id == ConfigRow.id,
        ]
        if self.problem is not None:
            conditions.append(ProblemRow.key == self.problem.key)
        if self.pattern is not None:
            conditions.append(PatternRow.digest == rows.pattern_digest(self.pattern))
        return conditions


def read_records(session: Session, wanted: Filter) -> list[Record]:
    """Every measurement that is wanted, oldest first; of patterns that a newer version knows there is none."""
    conditions = wanted.conditions(MeasurementRow)
    # Plain columns: as model instances, ten thousand measurements take several times as long.
    query = (
        select(MeasurementRow.id, MeasurementRow.uid, MeasurementRow.created_at, *REFERENCES, *rows.MEASUREMENT_COLUMNS)
        .where(*conditions)
        .order_by(MeasurementRow.created_at, MeasurementRow.id)
    )
    found = session.execute(query).all()

    def shared(table: type[Row], rebuild: Callable[[Row], Fact], reference: Reference) -> dict[int, Fact]:
        """What many measurements have in common, rebuilt once."""
        referred = select(table).where(table.id.in_(select(reference).where(*conditions)))
        return {row.id: rebuild(row) for row in session.scalars(referred)}

    runs = shared(RunRow, rows.run_of, MeasurementRow.run_id)
    environments = shared(EnvironmentRow, rows.environment_of, MeasurementRow.environment_id)
    problems = shared(ProblemRow, rows.problem_of, MeasurementRow.problem_id)
    patterns = shared(PatternRow, _known_pattern, MeasurementRow.pattern_id)
    configs = shared(ConfigRow, rows.config_of, MeasurementRow.config_id)
    return [
        Record(
            id=number,
            uid=uid,
            created_at=created_at,
            run=runs[run],
            environment=environments[environment],
            problem=problems[problem],
            pattern=known,
            config=configs[config],
            measurement=rows.measurement_of(values),
        )
        for number, uid, created_at, run, environment, problem, pattern, config, *values in found
        if (known := patterns[pattern]) is not None
    ]


def _known_pattern(row: PatternRow) -> Pattern | None:
    """The pattern in a row; None for what only another version of autotune knows."""
    try:
        return rows.pattern_of(row)
    except PatternError:
        return None


def read_choices(session: Session, wanted: Filter) -> list[Choice]:
    """The latest decision for each cell that is wanted, oldest first."""
    latest: dict[tuple[Environment, Problem, Pattern], Choice] = {}
    for choice in read_all_choices(session, wanted):
        cell = (choice.environment, choice.problem, choice.pattern)
        latest.pop(cell, None)  # so that the newer one comes in its own place
        latest[cell] = choice
    return list(latest.values())


def read_all_choices(session: Session, wanted: Filter) -> list[Choice]:
    """Every decision that is wanted, oldest first, but those for patterns that a newer version knows."""
    query = (
        select(DecisionRow, EnvironmentRow, ProblemRow, PatternRow, ConfigRow)
        .where(*wanted.conditions(DecisionRow))
        .order_by(DecisionRow.created_at, DecisionRow.id)
    )
    return [
        Choice(
            created_at=decision.created_at,
            environment=rows.environment_of(environment),
            problem=rows.problem_of(problem),
            pattern=known,
            config=rows.config_of(config),
            measurement_id=decision.measurement_id,
            margin=decision.margin,
            candidates=decision.candidates,
        )
        for decision, environment, problem, pattern, config in session.execute(query)
        if (known := _known_pattern(pattern)) is not None
    ]


def read_rates(session: Session, wanted: EnvironmentFilter) -> list[Rate]:
    """Every rate that is wanted, oldest first."""
    query = (
        select(RateRow, RunRow, EnvironmentRow)
        .where(RateRow.run_id == RunRow.id, *wanted.environment_conditions(RateRow))
        .order_by(RateRow.created_at, RateRow.id)
    )
    return [
        Rate(
            uid=rate.uid,
            created_at=rate.created_at,
            run=rows.run_of(run),
            environment=rows.environment_of(environment),
            dtype=rate.dtype,
            matmul_flops_per_s=rate.matmul_flops_per_s,
            copy_bytes_per_s=rate.copy_bytes_per_s,
        )
        for rate, run, environment in session.execute(query)
    ]


def read_results(session: Session, wanted: Filter) -> Results:
    """Every measurement, decision and rate of the environments, problems and patterns that are wanted."""
    environments = EnvironmentFilter(
        environment_fingerprint=wanted.environment_fingerprint, device=wanted.device, device_name=wanted.device_name
    )
    return Results(
        records=read_records(session, wanted),
        choices=read_all_choices(session, wanted),
        rates=read_rates(session, environments),
    )
