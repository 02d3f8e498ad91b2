"""What waits together commits once, what fails is undone alone, results come after the commit."""

import asyncio
import threading

import pytest
from sqlalchemy import func, insert, select

from craft_server.db.group_commit import GroupCommit
from craft_server.db.store import Store
from craft_server.db.tables import keys
from craft_shared.errors import Code, Refusal


class Counter:
    """A place where writes wait at a gate, so that those behind pile up."""

    def __init__(self, folder):
        self.store = Store(f"sqlite:///{folder / 'craft.db'}", busy_timeout_s=0.05)
        self.group_commit = GroupCommit(self.store)
        self.gate = threading.Event()
        self.begun = threading.Event()

    def wait(self):
        self.begun.set()
        assert self.gate.wait(10)

    def add(self, name):
        with self.store.write() as tx:
            row = {"id": name, "owner": "o", "token_sha256": name, "scopes": "", "created_at": 0}
            tx.execute(insert(keys), row | {"queries_limit": 1})
        return name

    def names(self):
        with self.store.read() as tx:
            return set(tx.execute(select(keys.c.id)).scalars())

    async def pile(self, *writes):
        """Run writes that were all waiting when the group_commit came to them."""
        first = self.group_commit.run(self.wait)
        await asyncio.to_thread(self.begun.wait, 10)
        waiting = [self.group_commit.run(write) for write in writes]
        await asyncio.sleep(0)
        self.gate.set()
        await first
        return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.fixture
def counter(tmp_path):
    counter = Counter(tmp_path)
    yield counter
    counter.group_commit.close()
    counter.store.close()


def test_works_that_wait_together_share_one_commit(counter, monkeypatch):
    commits = []
    together = counter.store.together
    monkeypatch.setattr(
        counter.store, "together", lambda **how: commits.append(1) or together(**how)
    )
    writes = [lambda name=name: counter.add(name) for name in "abc"]
    assert asyncio.run(counter.pile(*writes)) == ["a", "b", "c"]
    assert counter.names() == {"a", "b", "c"}
    assert commits == [1, 1]  # the one at the gate, then all others


def test_a_refusal_undoes_its_own_work_alone(counter):
    def refused():
        with counter.store.write():
            counter.add("b")
            raise Refusal(Code.BUDGET_EXHAUSTED, "no room")

    a, b, c = asyncio.run(counter.pile(lambda: counter.add("a"), refused, lambda: counter.add("c")))
    assert (a, c, b.code) == ("a", "c", Code.BUDGET_EXHAUSTED)
    assert counter.names() == {"a", "c"}


def test_a_bug_in_one_work_leaves_the_others_done_once(counter):
    def broken():
        counter.add("b")
        raise ZeroDivisionError

    a, b, c = asyncio.run(counter.pile(lambda: counter.add("a"), broken, lambda: counter.add("c")))
    assert (a, c, type(b)) == ("a", "c", ZeroDivisionError)
    assert counter.names() >= {"a", "c"}


def test_nobody_is_reported_before_the_commit_and_all_are_reported_if_it_fails(counter):
    other = Store(f"sqlite:///{counter.store._engine.url.database}")

    async def main():
        with other.write():
            adding = [
                counter.group_commit.run(lambda name=name: counter.add(name)) for name in "ab"
            ]
            return await asyncio.gather(*adding, return_exceptions=True)

    results = asyncio.run(main())
    other.close()
    assert [result.code for result in results] == [Code.NOT_READY] * 2
    assert counter.names() == set()


def test_a_caller_that_leaves_does_not_undo_the_work(counter):
    async def main():
        first = counter.group_commit.run(counter.wait)
        await asyncio.to_thread(counter.begun.wait, 10)
        second = counter.group_commit.run(lambda: counter.add("a"))
        await asyncio.sleep(0)
        second.cancel()
        counter.gate.set()
        await first
        await counter.group_commit.run(lambda: None)

    asyncio.run(main())
    assert counter.names() == {"a"}


def test_closing_finishes_what_waits(counter):
    async def main():
        adding = counter.group_commit.run(lambda: counter.add("a"))
        await asyncio.sleep(0)
        await asyncio.to_thread(counter.group_commit.close)
        assert await adding == "a"

    asyncio.run(main())
    with counter.store.read() as tx:
        assert tx.execute(select(func.count()).select_from(keys)).scalar_one() == 1
    counter.group_commit = GroupCommit(counter.store)


def test_a_database_with_many_writers_gets_works_side_by_side(counter, monkeypatch):
    monkeypatch.setattr(Store, "one_writer", False)
    group_commit, both = GroupCommit(counter.store), threading.Barrier(2)

    async def main():
        return await asyncio.gather(*(group_commit.run(lambda: both.wait(10)) for _ in range(2)))

    assert sorted(asyncio.run(main())) == [0, 1]
    group_commit.close()
