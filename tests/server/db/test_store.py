"""The store commits whole transactions, lets one writer in, and fails closed."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from craft_server.db.engines import CONNECTIONS
from craft_server.db.store import Store, from_us, to_us, wall_clock
from craft_server.db.tables import keys
from craft_shared.errors import Code, Refusal


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'deep' / 'craft.db'}"


@pytest.fixture
def store(tmp_path: Path):
    store = Store(url(tmp_path), busy_timeout_s=0.05)
    yield store
    store.close()


def key_row(name: str) -> dict[str, object]:
    return {
        "id": name,
        "owner": "lab",
        "token_sha256": name,
        "scopes": "",
        "created_at": 0,
        "queries_limit": 1,
    }


def count(store: Store) -> int:
    with store.read() as tx:
        return tx.execute(select(func.count()).select_from(keys)).scalar_one()


def test_a_block_that_ends_well_is_committed(store: Store):
    with store.write() as tx:
        tx.execute(insert(keys), key_row("a"))
    assert count(store) == 1


def test_a_block_that_raises_leaves_nothing(store: Store):
    def fail() -> None:
        with store.write() as tx:
            tx.execute(insert(keys), key_row("a"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert count(store) == 0


def test_readers_see_one_moment_while_a_writer_commits(store: Store):
    with store.read() as tx:
        before = tx.execute(select(func.count()).select_from(keys)).scalar_one()
        with store.write() as other:
            other.execute(insert(keys), key_row("a"))
        after = tx.execute(select(func.count()).select_from(keys)).scalar_one()
    assert (before, after, count(store)) == (0, 0, 1)


def test_a_second_writer_is_refused_when_the_first_stays_too_long(tmp_path: Path, store: Store):
    other = Store(url(tmp_path), busy_timeout_s=0.05)
    with store.write(), pytest.raises(Refusal) as refused, other.write():
        pass  # pragma: no cover - never entered
    other.close()
    assert (refused.value.code, refused.value.status) == (Code.NOT_READY, 503)
    assert refused.value.retry_after_s is not None


def test_readers_do_not_wait_for_a_writer(store: Store):
    with store.write() as tx:
        tx.execute(insert(keys), key_row("a"))
        assert count(store) == 0


def test_running_out_of_connections_is_an_outage(store: Store):
    with ExitStack() as blocks:
        for _ in range(CONNECTIONS):
            blocks.enter_context(store.read())
        with pytest.raises(Refusal, match="does not answer"):
            blocks.enter_context(store.read())
    assert count(store) == 0


def test_a_broken_constraint_is_not_an_outage(store: Store):
    with pytest.raises(IntegrityError), store.write() as tx:
        tx.execute(insert(keys), key_row("a") | {"queries_used": 2})


def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path):
    path = tmp_path / "craft.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Refusal) as refused:
        Store(f"sqlite:///{path}")
    assert refused.value.code is Code.NOT_READY


def test_a_store_whose_file_became_unusable_is_an_outage(tmp_path: Path, store: Store):
    store.close()
    path = tmp_path / "deep" / "craft.db"
    path.unlink()
    path.mkdir()
    with pytest.raises(Refusal, match="does not answer"):
        count(store)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 50)],
)
def test_sqlite_is_set_to_survive_a_power_cut(store: Store, pragma: str, value: object):
    with store.read() as tx:
        assert tx.execute(text(f"PRAGMA {pragma}")).scalar_one() == value


def test_eight_stores_may_create_the_same_database_at_once(database_url: str):
    ready = threading.Barrier(8)

    def create() -> None:
        ready.wait()
        Store(database_url).close()

    with ThreadPoolExecutor(8) as pool:
        for created in [pool.submit(create) for _ in range(8)]:
            created.result()


def test_a_file_that_stays_locked_while_it_is_switched_to_wal_is_an_outage(tmp_path: Path):
    path = tmp_path / "craft.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Refusal) as refused:
            Store(f"sqlite:///{path}", busy_timeout_s=0.05)
    assert refused.value.code is Code.NOT_READY


@pytest.mark.parametrize("bad", ["sqlite://", "sqlite:///:memory:", "nonsense", "nodb://x/y"])
def test_a_url_that_cannot_be_used_says_so(bad: str):
    with pytest.raises(ValueError, match="database_url"):
        Store(bad)


def test_the_password_in_a_bad_url_is_not_repeated():
    with pytest.raises(ValueError, match="database_url") as raised:
        Store("nodb://user:secret@host/name")
    assert "secret" not in str(raised.value)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_survives_being_stored_to_the_microsecond(moment: datetime):
    assert from_us(to_us(moment)) == moment


def test_a_time_is_stored_in_utc_whatever_its_zone():
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    naive = datetime(2026, 1, 1, 10)  # noqa: DTZ001 - what this is about
    assert to_us(noon) == to_us(naive) == to_us(datetime(2026, 1, 1, 10, tzinfo=UTC))


def test_the_wall_clock_counts_microseconds_of_utc():
    assert abs(from_us(wall_clock()) - datetime.now(UTC)) < timedelta(seconds=5)
