"""Races: which measurements were timed in turn."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the race to the measurements; of those that are stored it is not known."""
    op.add_column("measurements", sa.Column("race", sa.String(32)))
