"""Databases as the first release left them, and a look at all that a database holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, create_engine, event, inspect, make_url, select, text

from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "golden"
ROWS = """
INSERT INTO keys (id, owner, token_sha256, scopes, created_at, queries_limit, queries_used,
                  queries_held, logit_vectors_limit, logit_vectors_used, logit_vectors_held)
VALUES ('key_a', 'lab', 'aa', 'logits:read', 1, 10, 3, 2, 100, 6, 4),
       ('key_b', 'lab', 'bb', 'usage:read', 2, 5, 0, 0, NULL, 0, 0);
INSERT INTO requests VALUES
 ('key_a', 'one', 'f1', 'settled', 1, 'r', 10, 20, 3, 1, 6, 9, 11, 'd1', NULL),
 ('key_a', 'two', 'f2', 'held', 2, 'r', 12, 22, 2, 1, 4, 6, NULL, NULL, NULL),
 ('key_b', 'one', 'f3', 'released', 1, 'r', 13, 23, 1, 1, 2, 3, NULL, NULL, NULL);
INSERT INTO ledger (at, key_id, request_id, model, image_set, prompts, images, classes, queries,
                    calls, logit_vectors, texts, tag, milliseconds)
VALUES (11, 'key_a', 'one', 'tiny', 'set_1', 3, 2, 3, 3, 1, 6, 9, 'fitness', 1500);
INSERT INTO images VALUES ('lab', 'i1', 100, 8, 8);
"""


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A transaction of a driver that knows nothing of craft_server; it checks foreign keys."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _begin_as_told)
        event.listen(engine, "begin", lambda tx: tx.exec_driver_sql("BEGIN"))
    try:
        with engine.begin() as tx:
            yield tx
    finally:
        engine.dispose()


def _begin_as_told(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")


def run_script(url: str, script: str) -> None:
    """Run SQL statements, each ended by a semicolon, in one transaction."""
    with connected(url) as tx:
        for statement in script.split(";\n"):
            if statement.strip():
                tx.execute(text(statement.replace(":", r"\:")))


def release(url: str, rows: str = ROWS) -> str:
    """Make the database that the first release makes and fill it; gives its URL back."""
    dialect = make_url(url).get_backend_name()
    run_script(url, (GOLDEN / f"released_{dialect}.sql").read_text())
    run_script(url, rows)
    return url


def migrate(url: str, revision: str) -> None:
    """Have alembic bring a database to a revision."""
    with connected(url) as tx:
        config = Config()
        config.set_main_option("script_location", "craft_server:migrations")
        config.attributes["connection"] = tx
        command.upgrade(config, revision)


def shape(url: str) -> dict[str, Any]:
    """Everything that the database says of its tables; the order of columns does not count."""
    with connected(url) as tx:
        look = inspect(tx)
        return {
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in look.get_columns(table)
                },
                "primary key": look.get_pk_constraint(table)["constrained_columns"],
                "unique": sorted(
                    sorted(one["column_names"]) for one in look.get_unique_constraints(table)
                ),
                "checks": {
                    one["name"]: one["sqltext"] for one in look.get_check_constraints(table)
                },
                "foreign keys": sorted(
                    (one["constrained_columns"], one["referred_table"], one["referred_columns"])
                    for one in look.get_foreign_keys(table)
                ),
                "indexes": {
                    one["name"]: (
                        one["column_names"],
                        one["unique"],
                        {name: str(what) for name, what in one["dialect_options"].items()},
                    )
                    for one in look.get_indexes(table)
                    if "duplicates_constraint" not in one
                },
            }
            for table in look.get_table_names()
        }


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in the order of their primary keys."""
    with connected(url) as tx:
        found = MetaData()
        found.reflect(tx)
        return {
            table.name: [
                dict(row)
                for row in tx.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in found.sorted_tables
        }
