"""A database as the first schema left it: its own migration alone, and rows in plain SQL."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import create_engine

from autotune.db.records import Environment
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

MOMENT = "2025-01-02 03:04:05.000006"


def create(path: Path) -> None:
    """The empty database."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        config = AlembicConfig(attributes={"connection": connection})
        config.set_main_option("script_location", "autotune.db:migrations")
        command.upgrade(config, "0001")
        connection.commit()
    engine.dispose()


def fill(path: Path, environment: Environment, problem: Problem, pattern: Pattern, config: Config) -> None:
    """Two measurements and a decision; no model takes part, as models are those of today."""
    cell = {"created_at": MOMENT, "environment_id": 1, "problem_id": 1, "pattern_id": 1, "config_id": 1}
    measured = {**cell, "run_id": 1, "status": "ok", "reason": "", "peak_memory_bytes": 1 << 40, "rel_error": 1e-7}
    digest = sha256(pattern.key.encode()).hexdigest()
    with closing(sqlite3.connect(path)) as connection, connection:
        _insert(connection, "runs", command="autotune tune", started_at=MOMENT)
        _insert(connection, "environments", fingerprint=environment.fingerprint, **asdict(environment))
        columns = {name: value for name, value in asdict(problem).items() if name != "kv_home"}  # of revision 0004
        _insert(connection, "problems", key=problem.key, **columns)
        _insert(connection, "patterns", digest=digest, kind=pattern.kind, key=pattern.key)
        params = json.dumps(dict(config.params))
        _insert(connection, "configs", content_id=config.id, strategy=config.strategy, params=params)
        _insert(connection, "measurements", uid="a" * 32, times_ms="[2.0, 1.0, 3.0]", **measured)
        _insert(connection, "measurements", uid="b" * 32, times_ms="[0.5]", **measured)
        _insert(connection, "decisions", measurement_id=2, margin=0.25, candidates=2, **cell)


def _insert(connection: sqlite3.Connection, table: str, **values: object) -> None:
    names, places = ", ".join(f'"{name}"' for name in values), ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(values.values()))
