"""The tables, as SQLAlchemy models.

Column names equal the field names of the frozen data in `autotune.db.records` and `autotune.strategies`; `rows`
relies on it. A change here needs a step in `migrations/versions`.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, ForeignKey, Index, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def new_uid() -> str:
    """What a row is known by in every copy of the database."""
    return uuid4().hex


class Base(DeclarativeBase):
    """Root of the models."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: String(255),
        float: Double(),
        datetime: UtcDateTime(),
        list[float]: JSON(),
        dict[str, Any]: JSON(),
    }


class Dimension(Base):
    """A thing that many measurements share, stored once and known by its content."""

    __abstract__ = True
    natural_key: ClassVar[str]  # the unique column that identifies the content

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)


class EnvironmentRow(Dimension):
    """Where measurements were taken."""

    __tablename__ = "environments"
    natural_key = "fingerprint"

    fingerprint: Mapped[str] = mapped_column(String(16), unique=True)
    device: Mapped[str]
    device_name: Mapped[str]
    device_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    capability: Mapped[str]
    driver: Mapped[str]
    cpu_name: Mapped[str]
    threads: Mapped[int]
    torch_version: Mapped[str]
    triton_version: Mapped[str]
    cuda_version: Mapped[str]
    python_version: Mapped[str]
    platform: Mapped[str]


class ProblemRow(Dimension):
    """What a call looks like."""

    __tablename__ = "problems"
    natural_key = "key"

    key: Mapped[str] = mapped_column(unique=True)
    batch: Mapped[int]
    heads: Mapped[int]
    kv_heads: Mapped[int]
    query_len: Mapped[int] = mapped_column(BigInteger)
    kv_len: Mapped[int] = mapped_column(BigInteger)
    head_dim: Mapped[int]
    dtype: Mapped[str]
    causal: Mapped[bool]
    direction: Mapped[str]
    device: Mapped[str]
    kv_home: Mapped[str] = mapped_column(String(8), server_default="device")


class PatternRow(Dimension):
    """Which function is computed."""

    __tablename__ = "patterns"
    natural_key = "digest"

    # Unique in place of the key itself: a caller's own block mask can be longer than a server indexes.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str]
    key: Mapped[str] = mapped_column(Text)  # canonical JSON, kind included


class ConfigRow(Dimension):
    """How it is computed."""

    __tablename__ = "configs"
    natural_key = "content_id"

    content_id: Mapped[str] = mapped_column(String(12), unique=True)
    strategy: Mapped[str]
    params: Mapped[dict[str, Any]]


class RunRow(Base):
    """One invocation that measured something."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
    command: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(default=now)


class CellRow(Base):
    """A row about one configuration in one cell."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(default=now)
    environment_id: Mapped[int] = mapped_column(ForeignKey(EnvironmentRow.id))
    problem_id: Mapped[int] = mapped_column(ForeignKey(ProblemRow.id))
    pattern_id: Mapped[int] = mapped_column(ForeignKey(PatternRow.id))
    config_id: Mapped[int] = mapped_column(ForeignKey(ConfigRow.id))


class MeasurementRow(CellRow):
    """One candidate, tried once."""

    __tablename__ = "measurements"
    __table_args__ = (Index(None, "environment_id", "problem_id", "pattern_id"),)

    uid: Mapped[str] = mapped_column(String(32), unique=True, default=new_uid)
    run_id: Mapped[int] = mapped_column(ForeignKey(RunRow.id))
    status: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text)
    times_ms: Mapped[list[float]]
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    predicted_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    rel_error: Mapped[float | None]
    max_abs_error: Mapped[float | None]
    signal: Mapped[int | None]
    compile_s: Mapped[float | None]
    gate_s: Mapped[float | None]
    timing_s: Mapped[float | None]
    race: Mapped[str | None] = mapped_column(String(32))


class DecisionRow(CellRow):
    """What a search settled on for one cell."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "environment_id", "problem_id", "pattern_id"),)

    measurement_id: Mapped[int] = mapped_column(ForeignKey(MeasurementRow.id))
    margin: Mapped[float | None]
    candidates: Mapped[int]


class RateRow(Base):
    """What a device reached in plain operations."""

    __tablename__ = "rates"

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
    uid: Mapped[str] = mapped_column(String(32), unique=True, default=new_uid)
    created_at: Mapped[datetime] = mapped_column(default=now)
    run_id: Mapped[int] = mapped_column(ForeignKey(RunRow.id))
    environment_id: Mapped[int] = mapped_column(ForeignKey(EnvironmentRow.id))
    dtype: Mapped[str]
    matmul_flops_per_s: Mapped[float]
    copy_bytes_per_s: Mapped[float]
