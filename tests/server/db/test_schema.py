"""A database of any age comes to the schema of this code whole and once, or stays as it was."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, create_engine, text
from sqlalchemy.exc import IntegrityError

from craft_server.accounts.keys import Keys
from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.db.schema import HEAD, REVISIONS, SchemaError, pending
from craft_server.db.store import Store, revision
from craft_server.db.tables import metadata
from craft_server.metering.meter import Hold, LedgerEntry, Meter
from craft_shared.errors import Refusal
from craft_shared.messages import Counters
from tests.support.databases import fresh_postgres
from tests.support.released import connected, migrate, release, rows, run_script, shape
from tests.support.serving import settings_in, stub_box

pytestmark = pytest.mark.slow  # migrates databases

ADDED = {
    "keys": {
        "version": 0,
        "policy": "{}",
        "previous_sha256": None,
        "previous_until": None,
        "texts_limit": None,
        "logits_limit": None,
    },
    "ledger": {"run": ""},
}
"""What an upgrade of the first release adds to each row, whatever is in it."""

COUNTED = {
    "keys": [
        {"texts_used": 9, "texts_held": 0, "logits_used": 18, "logits_held": 0},
        {"texts_used": 0, "texts_held": 0, "logits_used": 0, "logits_held": 0},
    ],
    "requests": [{"logits": 18}, {"logits": 0}, {"logits": 0}],
    "ledger": [{"logits": 18}],
}
"""What it counts of the rows of `released.ROWS`: of what is settled, texts x images."""

OLD_KEY = """
    INSERT INTO keys (id, owner, token_sha256, scopes, created_at, expires_at, queries_limit,
                      logit_vectors_limit)
    VALUES ('key_c', 'lab', 'cc', 'logits:read', 3, NULL, 10, NULL)"""
OLD_REQUEST = """
    INSERT INTO requests (key_id, idem_key, fingerprint, state, attempt, holder,
                          held_at, expires_at, queries, calls, logit_vectors, texts)
    VALUES ('key_c', 'three', 'f', 'held', 1, 'r', 1, 2, 1, 1, 2, 3)
    ON CONFLICT (key_id, idem_key) DO UPDATE SET attempt = requests.attempt + 1"""
OLD_LINE = """
    INSERT INTO ledger (at, key_id, request_id, model, image_set, prompts, images, classes,
                        queries, calls, logit_vectors, texts, tag, milliseconds)
    VALUES (9, 'key_c', 'three', 'tiny', 'set_1', 1, 2, 3, 1, 1, 2, 3, 'fitness', 7)"""
OLD_INSERTS = (OLD_KEY, OLD_REQUEST, OLD_LINE)
"""As the first release writes; what it leaves out, a revision must give a default."""


OLD_RESERVE = (
    """INSERT INTO requests (key_id, idem_key, fingerprint, state, attempt, holder,
                             held_at, expires_at, queries, calls, logit_vectors, texts)
       VALUES ('key_a', :name, 'f', 'held', 1, 'old', 1, 2, 1, 1, 2, 3)""",
    """UPDATE keys SET queries_held = queries_held + 1, logit_vectors_held = logit_vectors_held + 2
       WHERE id = 'key_a'""",
)
OLD_SETTLE = (
    """UPDATE requests SET state = 'settled', settled_at = 3, reply_sha256 = 'd'
       WHERE key_id = 'key_a' AND idem_key = :name""",
    """UPDATE keys SET queries_held = queries_held - 1, queries_used = queries_used + 1,
                       logit_vectors_held = logit_vectors_held - 2,
                       logit_vectors_used = logit_vectors_used + 2 WHERE id = 'key_a'""",
    """INSERT INTO ledger (at, key_id, request_id, model, image_set, prompts, images, classes,
                           queries, calls, logit_vectors, texts, tag, milliseconds)
       VALUES (9, 'key_a', :name, 'tiny', 'set_1', 1, 2, 3, 1, 1, 2, 3, '', 7)""",
)
"""A purchase of a query as releases before 0003 wrote it: 2 images, 3 names."""
NEW = ("texts", "logits")


@pytest.fixture
def old(database_url: str) -> str:
    """The database of the first release, with two keys, three requests and a line."""
    return release(database_url)


@pytest.fixture
def empty(database_url: str, tmp_path: Path) -> str:
    """A second empty database of the same kind."""
    sqlite = database_url.startswith("sqlite")
    return f"sqlite:///{tmp_path / 'second.db'}" if sqlite else fresh_postgres()


def opened(url: str, **options: Any) -> str:
    Store(url, **options).close()
    return url


def differences(url: str) -> list[Any]:
    """What alembic would still have to do to come from the database to the tables."""
    with connected(url) as tx:
        return list(compare_metadata(MigrationContext.configure(tx), metadata))


# --- the schema ---------------------------------------------------------------------------------


def test_the_revisions_are_the_scripts_in_one_line():
    config = Config()
    config.set_main_option("script_location", "craft_server:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS
    assert scripts.get_heads() == [HEAD]


def test_the_first_revision_is_what_the_first_release_made(old: str, empty: str):
    migrate(empty, "0001")
    made = shape(empty)
    del made["alembic_version"]
    assert made == shape(old)


def test_an_upgraded_database_has_the_schema_of_a_new_one(old: str, empty: str):
    assert shape(opened(old)) == shape(opened(empty))


def test_a_new_database_is_as_alembic_makes_it_from_nothing(database_url: str, empty: str):
    migrate(empty, "head")
    assert shape(opened(database_url)) == shape(empty)
    assert rows(database_url) == rows(empty)


def test_alembic_finds_no_difference_to_the_tables(old: str, empty: str):
    assert differences(old) != []
    assert differences(opened(old)) == differences(opened(empty)) == []


def test_every_check_of_the_tables_is_in_an_upgraded_database(old: str):
    found = shape(opened(old))
    for table in metadata.tables.values():
        checks = {one.name for one in table.constraints if isinstance(one, CheckConstraint)}
        assert found[table.name]["checks"].keys() == checks


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET queries_used = queries_limit + 1",
        "UPDATE keys SET logit_vectors_held = -1",
        "UPDATE keys SET texts_held = -1",
        "UPDATE keys SET texts_limit = 8 WHERE id = 'key_a'",
        "UPDATE keys SET logits_limit = 17 WHERE id = 'key_a'",
        "UPDATE requests SET logits = -1",
        "UPDATE keys SET previous_sha256 = id",
        "UPDATE keys SET previous_sha256 = 'same', previous_until = 1",
        "UPDATE keys SET token_sha256 = 'same'",
        "DELETE FROM keys WHERE id = 'key_a'",
        "UPDATE requests SET key_id = 'nobody' WHERE state = 'held'",
    ],
)
def test_an_upgraded_database_refuses_to_be_inconsistent(old: str, statement: str):
    with closing(Store(old)) as store, pytest.raises(IntegrityError), store.write() as tx:
        tx.execute(text(statement))


# --- what an upgrade does -----------------------------------------------------------------------


def test_an_upgrade_keeps_every_row(old: str):
    before = rows(old)
    after = rows(opened(old))
    assert after.pop("alembic_version") == [{"version_num": HEAD}]
    assert after.pop("admin_acts") == after.pop("image_claims") == []
    assert [one["owner"] for one in after.pop("image_totals")] == ["lab"]
    expected = {
        table: [row | ADDED.get(table, {}) for row in content] for table, content in before.items()
    }
    for table, counted in COUNTED.items():
        expected[table] = [row | more for row, more in zip(expected[table], counted, strict=True)]
    assert after == expected
    assert [len(before[name]) for name in ("keys", "requests", "ledger", "images")] == [2, 3, 1, 1]


def test_an_upgrade_sums_up_what_each_owner_has(old: str):
    run_script(
        old,
        """INSERT INTO images VALUES ('lab', 'i2', 50, 8, 8), ('other', 'i1', 100, 8, 8);
        INSERT INTO image_sets VALUES ('lab', 's1', '', 3, 'x'), ('lab', 's2', '', 4, 'x');
        INSERT INTO image_sets VALUES ('sets alone', 's1', '', 5, 'x');
        """,
    )
    totals = {one.pop("owner"): tuple(one.values()) for one in rows(opened(old))["image_totals"]}
    assert totals == {
        "lab": (2, 150, 2, 7, 0, 0),
        "other": (1, 100, 0, 0, 0, 0),
        "sets alone": (0, 0, 1, 5, 0, 0),
    }


def test_the_meter_goes_on_where_the_first_release_stopped(old: str):
    with closing(Store(old)) as store:
        meter = Meter(store)
        assert meter.audit() == []
        line = LedgerEntry("tiny", "set_1", prompts=2, images=2, classes=3, run="r2")
        meter.settle(Hold("key_a", "two", 2), b"logits", entry=line)
        assert meter.budgets("key_a").queries.used == 5
        cost = Counters(queries=1, calls=1, logit_vectors=2, texts=3)
        assert isinstance(
            meter.reserve("key_a", "new", fingerprint="f", cost=cost, hold_s=60), Hold
        )
        events = meter.events("key_a").events
        assert [(one.request_id, one.run) for one in events] == [("one", ""), ("two", "r2")]
        assert meter.audit() == []


def test_a_replica_of_the_first_release_goes_on_during_and_after_an_upgrade(old: str):
    engine = create_engine(old)  # of the old replica, which does not know that anything changed
    with engine.begin() as tx:
        tx.execute(text("UPDATE keys SET queries_limit = queries_limit"))
    opened(old)
    with engine.begin() as tx:
        for statement in OLD_INSERTS:
            tx.execute(text(statement))
    engine.dispose()
    with closing(Store(old)) as store:
        assert [one.run for one in Meter(store).events("key_c").events] == [""]


def test_a_release_that_counts_no_texts_sells_beside_one_that_does(old: str):
    """Whatever it holds, settles or leaves behind: no limit is missed, no counter drifts."""
    engine = create_engine(old)

    def as_before(name: str, *statements: str) -> None:
        with engine.begin() as tx:
            for statement in statements:
                tx.execute(text(statement), {"name": name})

    as_before("early", *OLD_RESERVE)
    with closing(Store(old)) as store:
        meter = Meter(store)
        Keys(store).change("key_a", texts_limit=9 + 3, logits_limit=18 + 6)
        as_before("early", *OLD_SETTLE)
        assert meter.audit() == []
        for name in ("settled", "left"):
            as_before(name, *OLD_RESERVE)
        cost = Counters(queries=1, calls=1, logit_vectors=2, texts=3, logits=6)
        hold = meter.reserve("key_a", "new", fingerprint="f", cost=cost, hold_s=60)
        assert isinstance(hold, Hold)
        assert meter.audit() == []
        as_before("settled", *OLD_SETTLE)
        assert meter.expire() == 2  # what it left, and the one of the fixture
        assert meter.audit() == []
        budgets = meter.settle(hold, b"", entry=LedgerEntry("tiny", "set_1", 1, 2, 3))
        assert meter.audit() == []
        found = {name: (budget.used, budget.held) for name, budget in budgets if name in NEW}
        assert found == {"texts": (12, 0), "logits": (24, 0)}
        with pytest.raises(Refusal, match="needs 3 texts, 0 remain"):
            meter.reserve("key_a", "more", fingerprint="f", cost=cost, hold_s=60)
    engine.dispose()


def test_what_the_command_line_of_the_first_release_made_alone_is_completed(
    database_url: str, empty: str
):
    release(database_url)
    run_script(database_url, "DROP TABLE images;\nDROP TABLE image_sets;\n")
    assert shape(opened(database_url)) == shape(opened(empty))
    assert len(rows(database_url)["ledger"]) == 1


def test_an_upgrade_is_reported_in_one_line(old: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        opened(opened(old))
    assert caplog.messages == [f"the database was upgraded from revision 0001 to {HEAD}"]


def test_nothing_is_reported_of_a_new_database(database_url: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        opened(database_url)
    assert caplog.messages == []


@pytest.mark.slow
def test_alembic_is_not_loaded_for_new_and_current_databases(tmp_path: Path):
    code = """if True:
        import sys
        from craft_server.db.store import Store
        for _ in range(2):
            Store(sys.argv[1]).close()
        assert "alembic" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path / 'craft.db'}"], check=True)


@pytest.mark.slow
def test_the_first_to_open_a_new_database_makes_all_tables(tmp_path: Path):
    code = "import sys; from craft_server.db.store import Store; Store(sys.argv[1]).close()"
    url = f"sqlite:///{tmp_path / 'craft.db'}"
    subprocess.run([sys.executable, "-c", code, url], check=True)
    assert shape(url).keys() == {*metadata.tables, "alembic_version"}


# --- who may, and when --------------------------------------------------------------------------


def test_eight_that_open_an_old_database_at_once_upgrade_it_once(
    old: str, caplog: pytest.LogCaptureFixture
):
    ready = threading.Barrier(8)

    def start() -> None:
        ready.wait()
        opened(old, busy_timeout_s=30)

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(start) for _ in range(8)]:
            one.result()
    assert len(caplog.messages) == 1
    assert rows(old)["alembic_version"] == [{"version_num": HEAD}]
    assert len(rows(old)["requests"]) == 3


@pytest.mark.slow
def test_processes_that_open_an_old_database_at_once_upgrade_it_once(old: str):
    code = """if True:
        import sys
        from craft_server.db.store import Store
        print("ready", flush=True)
        sys.stdin.readline()
        Store(sys.argv[1], busy_timeout_s=30).close()"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, old],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    logged = [process.communicate("go\n", timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted("".join(logged).splitlines()) == [
        f"the database was upgraded from revision 0001 to {HEAD}"
    ]
    assert len(rows(old)["ledger"]) == 1


def test_two_databases_may_be_upgraded_at_once(database_url: str, empty: str):
    urls = [release(database_url), release(empty)]
    ready = threading.Barrier(2)

    def start(url: str) -> None:
        ready.wait()
        opened(url)

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(start, url) for url in urls]:
            one.result()
    assert shape(database_url) == shape(empty)


@pytest.mark.parametrize("options", [{}, {"migrate": False}])
def test_a_newer_database_is_refused_and_untouched(database_url: str, options: dict[str, bool]):
    opened(database_url)
    run_script(
        database_url,
        "UPDATE alembic_version SET version_num = '0999';\n"
        "ALTER TABLE keys ADD COLUMN colour VARCHAR(8);\n",
    )
    before = shape(database_url), rows(database_url)
    with pytest.raises(SchemaError, match="'0999', which this craft-server does not know"):
        Store(database_url, **options)
    assert (shape(database_url), rows(database_url)) == before


def test_an_old_database_is_refused_and_untouched_where_migrate_is_off(old: str):
    before = shape(old), rows(old)
    with pytest.raises(SchemaError, match=r"at revision 0001.*craft-server db upgrade"):
        Store(old, migrate=False)
    assert (shape(old), rows(old)) == before


def test_an_empty_database_stays_empty_where_migrate_is_off(database_url: str):
    with pytest.raises(SchemaError, match="is empty"):
        Store(database_url, migrate=False)
    assert shape(database_url) == {}


def test_a_current_database_is_opened_where_migrate_is_off(database_url: str):
    opened(opened(database_url), migrate=False)


def test_the_server_starts_on_an_old_database_only_if_it_may_upgrade_it(tmp_path: Path, old: str):
    settings = settings_in(tmp_path, database_url=old)
    with pytest.raises(SchemaError):
        create_app(settings.model_copy(update={"migrate": False}), stub_box(settings))
    services_of(create_app(settings, stub_box(settings))).store.close()
    assert revision(old) == HEAD


# --- an upgrade that fails ----------------------------------------------------------------------


@pytest.fixture
def doomed(old: str) -> Iterator[str]:
    """An old database in whose way the last table of an upgrade is; it must stay as it is."""
    run_script(old, "CREATE TABLE admin_acts (a INTEGER PRIMARY KEY);\n")
    before = shape(old), rows(old)
    yield old
    assert (shape(old), rows(old)) == before
    run_script(old, "DROP TABLE admin_acts;\n")
    opened(old)
    assert len(rows(old)["requests"]) == 3


def test_an_upgrade_that_fails_in_the_middle_leaves_the_old_schema(doomed: str):
    with pytest.raises(SchemaError, match=r"stays at revision 0001.*admin_acts.*already exists$"):
        Store(doomed)
    assert revision(doomed) == "0001"


@pytest.mark.slow
def test_an_upgrade_does_not_wait_for_ever_for_a_reader():
    url = release(fresh_postgres())
    before = shape(url)
    with connected(url) as tx:
        tx.execute(text("SELECT count(*) FROM ledger"))
        with pytest.raises(SchemaError, match="lock timeout"):
            Store(url, busy_timeout_s=0.1)
    assert shape(url) == before
    opened(url)


def test_rows_that_belong_to_nobody_are_not_upgraded(tmp_path: Path):
    url = release(f"sqlite:///{tmp_path / 'craft.db'}")
    engine = create_engine(url)  # foreign keys are off unless somebody turns them on
    with engine.begin() as tx:
        tx.execute(text("DELETE FROM keys WHERE id = 'key_a'"))
    engine.dispose()
    before = shape(url), rows(url)
    with pytest.raises(SchemaError, match="belong to no key"):
        Store(url)
    assert (shape(url), rows(url)) == before


# --- what is left to do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "left"), [("0001", [*REVISIONS[1:]]), (HEAD, []), (None, []), ("0999", [])]
)
def test_what_an_upgrade_would_run(found: str | None, left: list[str]):
    assert pending(found) == left


def test_the_revision_of_a_database_is_looked_at_without_changing_it(database_url: str):
    assert revision(database_url) is None
    release(database_url)
    before = shape(database_url)
    assert revision(database_url) == "0001"
    assert shape(database_url) == before
    assert revision(opened(database_url)) == HEAD
