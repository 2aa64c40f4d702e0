"""The first schema: environments, problems, patterns, configs, runs, measurements, decisions."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _create_dimensions()
    op.create_table(
        "runs",
        _id(),
        _required("command", sa.Text()),
        _required("started_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "measurements",
        _id(),
        _unique("uid", 32),
        *_cell(),
        _reference("run_id", "runs.id"),
        _required("status", sa.String(32)),
        _required("reason", sa.Text()),
        _required("times_ms", sa.JSON()),
        sa.Column("peak_memory_bytes", sa.BigInteger()),
        sa.Column("predicted_memory_bytes", sa.BigInteger()),
        sa.Column("rel_error", sa.Double()),
        sa.Column("max_abs_error", sa.Double()),
        sa.Column("signal", sa.Integer()),
        sa.Column("compile_s", sa.Double()),
        sa.Column("gate_s", sa.Double()),
        sa.Column("timing_s", sa.Double()),
    )
    op.create_table(
        "decisions",
        _id(),
        *_cell(),
        _reference("measurement_id", "measurements.id"),
        sa.Column("margin", sa.Double()),
        _required("candidates", sa.Integer()),
    )
    for table in ("measurements", "decisions"):
        columns = ["environment_id", "problem_id", "pattern_id"]
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)


def _create_dimensions() -> None:
    op.create_table(
        "environments",
        _id(),
        _unique("fingerprint", 16),
        *_texts("device", "device_name"),
        _required("device_memory_bytes", sa.BigInteger()),
        *_texts("capability", "driver", "cpu_name"),
        _required("threads", sa.Integer()),
        *_texts("torch_version", "triton_version", "cuda_version", "python_version", "platform"),
    )
    op.create_table(
        "problems",
        _id(),
        _unique("key", 255),
        *(_required(name, sa.Integer()) for name in ("batch", "heads", "kv_heads")),
        *(_required(name, sa.BigInteger()) for name in ("query_len", "kv_len")),
        _required("head_dim", sa.Integer()),
        _required("causal", sa.Boolean()),
        *_texts("dtype", "direction", "device"),
    )
    op.create_table("patterns", _id(), _unique("digest", 64), *_texts("kind"), _required("key", sa.Text()))
    op.create_table("configs", _id(), _unique("content_id", 12), *_texts("strategy"), _required("params", sa.JSON()))


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True)


def _unique(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, unique=True)


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [_required(name, sa.String(255)) for name in names]


def _reference(name: str, column: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), sa.ForeignKey(column), nullable=False)


def _cell() -> list[sa.Column[Any]]:
    references = [_reference(f"{name}_id", f"{name}s.id") for name in ("environment", "problem", "pattern", "config")]
    return [_required("created_at", sa.DateTime(timezone=True)), *references]
