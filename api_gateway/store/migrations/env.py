"""alembic runs this for every command; it works in the transaction that the caller began and will commit."""

from alembic import context

from api_gateway.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
