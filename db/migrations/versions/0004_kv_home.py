"""Where keys and values lie: on the device, or in the host's memory."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the place to the problems; of those that are stored it is the device."""
    op.add_column("problems", sa.Column("kv_home", sa.String(8), nullable=False, server_default="device"))
