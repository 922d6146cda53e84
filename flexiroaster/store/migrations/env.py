"""Alembic's entry point: migrates on the connection and in the transaction that `store.database` opened."""

from alembic import context

from flexiroaster.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction holds the lock; see store.migrate
)
context.run_migrations()
