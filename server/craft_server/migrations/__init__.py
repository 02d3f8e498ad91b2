"""The scripts by which alembic brings an old database to the schema of today.

schema.py says when they run. A new one is a file in versions/ and a name in `schema.REVISIONS`. It
only adds, with a server default for whatever is NOT NULL, because replicas of the version before
go on selling meanwhile; and it writes its tables out, because tables.py moves on and it does not.
"""
