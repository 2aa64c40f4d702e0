"""Rates: what a device reached in plain operations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of rates; what is stored stays as it is."""
    op.create_table(
        "rates",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uid", sa.String(32), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Integer(), sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("environment_id", sa.Integer(), sa.ForeignKey("environments.id"), nullable=False),
        sa.Column("dtype", sa.String(255), nullable=False),
        sa.Column("matmul_flops_per_s", sa.Double(), nullable=False),
        sa.Column("copy_bytes_per_s", sa.Double(), nullable=False),
    )
