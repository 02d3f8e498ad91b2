"""A Postgres that is frozen, or keeps rows locked, holds nobody longer than a transaction."""

import time

import pytest
from sqlalchemy import insert, select, text

from craft_server.db.store import Store
from craft_server.db.tables import keys
from craft_shared.errors import Code, Refusal
from tests.support.databases import fresh_postgres, frozen_postgres

pytestmark = pytest.mark.slow

TIMEOUT_S = 1.0
MARGIN_S = 2.0
"""A starved machine is late as well; without a bound these tests would never end."""


@pytest.fixture
def store():
    store = Store(fresh_postgres(), busy_timeout_s=TIMEOUT_S)
    yield store
    store.close()


def add(store, name):
    row = {"id": name, "owner": "o", "token_sha256": name, "scopes": "", "created_at": 0}
    with store.write() as tx:
        tx.execute(insert(keys), row | {"queries_limit": 1})


def names(store):
    with store.read() as tx:
        return set(tx.execute(select(keys.c.id)).scalars())


def refused(call, *arguments):
    began = time.monotonic()
    with pytest.raises(Refusal) as refusal:
        call(*arguments)
    assert refusal.value.code is Code.NOT_READY
    assert time.monotonic() - began < TIMEOUT_S + MARGIN_S


def test_a_frozen_server_is_waited_for_as_long_as_a_transaction_may_take(store):
    add(store, "a")
    with frozen_postgres():
        refused(names, store)  # on a connection that was there
        refused(names, store)  # on a new one
        refused(add, store, "b")
    assert names(store) == {"a"}
    add(store, "b")
    assert names(store) == {"a", "b"}


def test_a_server_that_freezes_within_a_transaction_ends_it(store):
    def freeze():
        with store.write() as tx:
            tx.execute(text("SELECT 1"))
            with frozen_postgres():
                tx.execute(text("SELECT 1"))

    refused(freeze)
    assert names(store) == set()


def test_a_row_that_is_locked_for_too_long_is_an_outage_and_keeps_the_connection(store):
    add(store, "a")
    touch = text("UPDATE keys SET version = version WHERE id = 'a'")

    def also():
        with store.write() as tx:
            tx.execute(touch)

    with store.write() as tx:
        tx.execute(touch)
        refused(also)
    also()


def test_what_reads_much_has_more_time(store):
    with store.read(30) as tx:
        tx.execute(text("SELECT pg_sleep(:longer)"), {"longer": TIMEOUT_S * 1.5})
    with pytest.raises(Refusal), store.read() as tx:
        tx.execute(text("SELECT pg_sleep(:longer)"), {"longer": TIMEOUT_S * 1.5})


def test_whether_it_answers_is_asked_on_a_connection_of_its_own(store):
    session = store.session(TIMEOUT_S)
    assert session.answers()
    with frozen_postgres():
        began = time.monotonic()
        assert not session.answers()
        assert time.monotonic() - began < TIMEOUT_S + MARGIN_S
    assert session.answers()
    session.close()
