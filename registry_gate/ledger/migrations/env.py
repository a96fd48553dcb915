"""Run by alembic with the connection that `migrate.upgrade` passes in."""

from alembic import context

from registry_gate.ledger.migrate import VERSION_TABLE
from registry_gate.ledger.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
