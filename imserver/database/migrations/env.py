"""Run by Alembic, with the connection that the caller opened, inside the caller's transaction."""

from alembic import context

from imserver.database import schema, upgrade

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=upgrade.VERSION_TABLE,
)
context.run_migrations()
