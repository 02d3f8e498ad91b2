"""Alembic's entry: the revisions run on the connection, and in the transaction, of schema.py."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
