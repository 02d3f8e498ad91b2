"""The disk cache: it survives restarts, is bounded, and no fault of the file reaches a caller."""

import logging
import sqlite3

import pytest

from craft_server.engine import feature_cache
from craft_server.engine.feature_cache import FeatureCache

KEY, OTHER = "a" * 64, "b" * 64


def digest(number):
    return f"{number:064x}"


def records(*numbers):
    return {digest(number): bytes([number % 256]) * 96 for number in numbers}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var" / "features.db"


@pytest.fixture
def open_store(path):
    stores = []

    def opened(capacity=1000):
        stores.append(FeatureCache(path, capacity=capacity))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def change(path, statement, *values):
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def test_another_instance_finds_the_same_bytes(open_store):
    open_store().put(KEY, records(*range(1200)))
    again = open_store(10_000).get(KEY, [digest(number) for number in range(1300)])
    assert again == records(*range(200, 1200))


def test_another_checkpoint_finds_nothing(open_store):
    store = open_store()
    store.put(KEY, records(1))
    assert store.get(OTHER, [digest(1)]) == {}
    store.put(OTHER, {digest(1): b"other"})
    assert store.get(KEY, [digest(1)]) == records(1)


def test_the_oldest_records_go_first(open_store):
    store = open_store(3)
    for number in range(5):
        store.put(KEY, records(number))
    store.put(OTHER, records(9))
    assert store.get(KEY, [digest(number) for number in range(5)]) == records(3, 4)


def test_putting_a_record_again_drops_no_other(open_store):
    store = open_store(3)
    store.put(KEY, records(1, 2, 3))
    for _ in range(5):
        store.put(KEY, records(3))
    assert store.get(KEY, [digest(1), digest(2), digest(3)]) == records(1, 2, 3)


@pytest.mark.parametrize("damage", [b"", b"x" * 3, b"\0" * 100])
def test_a_record_that_is_not_whole_is_not_there(open_store, path, damage):
    store = open_store()
    store.put(KEY, records(1, 2))
    change(path, "UPDATE records SET record = ? WHERE digest = ?", damage, bytes.fromhex(digest(1)))
    assert store.get(KEY, [digest(1), digest(2)]) == records(2)
    store.put(KEY, records(1))
    assert store.get(KEY, [digest(1)]) == records(1)


def test_a_damaged_file_is_made_anew_and_said_once(open_store, path, caplog):
    store = open_store()
    for _ in range(2):
        store.put(KEY, records(1))
        assert store.get(KEY, [digest(1)]) == records(1)
        store.close()
        path.write_bytes(b"no database at all, and long enough to look like one" * 100)
        assert store.get(KEY, [digest(1)]) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_locked_file_is_left_in_peace_for_a_while(open_store, path, caplog, monkeypatch):
    monkeypatch.setattr(feature_cache, "_BUSY_TIMEOUT_S", 0.01)
    store = open_store()
    store.put(KEY, records(1))
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        store.put(KEY, records(2))
        store.put(KEY, records(3))
    other.close()
    assert store.get(KEY, [digest(1)]) == {}
    assert len(caplog.records) == 1
    monkeypatch.setattr(store, "_rests_until", 0.0)
    assert store.get(KEY, [digest(number) for number in (1, 2, 3)]) == records(1)


def test_a_place_that_cannot_be_written_is_gone_without(tmp_path, caplog):
    (tmp_path / "file").write_text("where a folder should be")
    store = FeatureCache(tmp_path / "file" / "features.db", capacity=10)
    store.put(KEY, records(1))
    assert store.get(KEY, [digest(1)]) == {}
    assert len(caplog.records) == 1


def test_capacity_zero_makes_no_file(open_store, path):
    store = open_store(0)
    store.put(KEY, records(1))
    assert store.get(KEY, [digest(1)]) == {}
    assert not path.exists()


def test_records_that_an_older_server_shared_among_owners_give_their_room_back(open_store, path):
    path.parent.mkdir()
    change(path, "CREATE TABLE features (key TEXT, digest BLOB, record BLOB)")
    for number in range(100):
        row = (KEY, bytes.fromhex(digest(number)), bytes(10_000))
        change(path, "INSERT INTO features VALUES (?, ?, ?)", *row)
    before = path.stat().st_size
    store = open_store()
    assert store.get(KEY, [digest(1)]) == {}
    store.put(KEY, records(1))
    store.close()
    assert path.stat().st_size < before / 10
    assert open_store().get(KEY, [digest(1)]) == records(1)


def test_an_old_file_that_another_process_reads_is_used_all_the_same(open_store, path):
    path.parent.mkdir()
    change(path, "PRAGMA journal_mode = WAL")
    change(path, "CREATE TABLE features (key TEXT, digest BLOB, record BLOB)")
    with sqlite3.connect(path) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM features").fetchall()
        store = open_store()
        store.put(KEY, records(1))
        assert store.get(KEY, [digest(1)]) == records(1)
    other.close()
