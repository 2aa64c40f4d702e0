"""What Alembic executes: run the steps on the connection, and in the transaction, that the caller has open."""

from alembic import context

from autotune.db.schema import VERSION_TABLE
from autotune.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by rebuilding it
)
context.run_migrations()
