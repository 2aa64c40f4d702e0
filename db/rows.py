"""Frozen data to table rows and back."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from autotune.db.records import Environment, Measurement, Rate, Run, Status
from autotune.db.tables import Base, ConfigRow, EnvironmentRow, MeasurementRow, PatternRow, ProblemRow, RunRow
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import Problem

MEASUREMENT_FIELDS = tuple(field.name for field in fields(Measurement))
MEASUREMENT_COLUMNS = tuple(getattr(MeasurementRow, name) for name in MEASUREMENT_FIELDS)


def environment_row(environment: Environment) -> EnvironmentRow:
    """The row of an environment."""
    return EnvironmentRow(fingerprint=environment.fingerprint, **asdict(environment))


def problem_row(problem: Problem) -> ProblemRow:
    """The row of a problem."""
    return ProblemRow(key=problem.key, **asdict(problem))


def pattern_row(pattern: Pattern) -> PatternRow:
    """The row of a pattern."""
    return PatternRow(digest=pattern_digest(pattern), kind=pattern.kind, key=pattern.key)


def pattern_digest(pattern: Pattern) -> str:
    """Content hash of a pattern's key."""
    return hashlib.sha256(pattern.key.encode()).hexdigest()


def config_row(config: Config) -> ConfigRow:
    """The row of a configuration."""
    return ConfigRow(content_id=config.id, strategy=config.strategy, params=dict(config.params))


def run_row(run: Run) -> RunRow:
    """The row of a run."""
    return RunRow(**asdict(run))


def rate_values(rate: Rate) -> dict[str, Any]:
    """The columns of a rate by name, but for its moment and what others share with it."""
    return {name: getattr(rate, name) for name in ("uid", "dtype", "matmul_flops_per_s", "copy_bytes_per_s")}


def measurement_values(measurement: Measurement) -> dict[str, Any]:
    """The columns of a measurement by name; SQLite has no NaN, so that no database is given one."""
    values = {name: None if value != value else value for name, value in asdict(measurement).items()}
    return values | {"status": measurement.status.value, "times_ms": list(measurement.times_ms)}


def environment_of(row: EnvironmentRow) -> Environment:
    """The environment in a row."""
    return Environment(**_values(Environment, row))


def problem_of(row: ProblemRow) -> Problem:
    """The problem in a row."""
    return Problem(**_values(Problem, row))


def pattern_of(row: PatternRow) -> Pattern:
    """The pattern in a row.

    Raises:
        PatternError: a kind of pattern that this version does not know.
    """
    return pattern_from_key(row.key)


def config_of(row: ConfigRow) -> Config:
    """The configuration in a row."""
    return Config(row.strategy, tuple(sorted(row.params.items())))


def run_of(row: RunRow) -> Run:
    """The run in a row."""
    return Run(**_values(Run, row))


def measurement_of(values: Sequence[Any]) -> Measurement:
    """The measurement in the values of `MEASUREMENT_COLUMNS`."""
    named = dict(zip(MEASUREMENT_FIELDS, values, strict=True))
    named["status"], named["times_ms"] = Status(named["status"]), tuple(named["times_ms"])
    return Measurement(**named)


def _values(data: Callable[..., Any], row: Base) -> dict[str, Any]:
    """The row's columns that the dataclass has fields for."""
    return {field.name: getattr(row, field.name) for field in fields(data)}  # type: ignore[arg-type]
