"""Alembic's entry: the revisions run on the connection, and in the transaction, of schema.py."""

import logging

from alembic import context

logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of implementations at INFO
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
