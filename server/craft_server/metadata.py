"""Where tables register. Must not know any; schema.py imports every module that defines some."""

from sqlalchemy import MetaData

metadata = MetaData()
"""Every table of the server, once `craft_server.schema` is imported."""
