"""No two live processes have one name, and only the certainly dead are taken for dead."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from craft_server.db.holders import Holder
from craft_server.db.store import Store

LIVES = """
import sys
from craft_server.db.holders import Holder
from craft_server.db.store import Store
holder = Holder(Store(sys.argv[1]), sys.argv[2])
print(holder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(database_url):
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def take(store):
    """Take a name."""
    taken = []

    def take(wanted=""):
        taken.append(Holder(store, wanted))
        return taken[-1]

    yield take
    for holder in taken:
        holder.close()


@contextmanager
def other_process(url, name):
    """A process that has a name until the end of the block, where it is killed."""
    command = [sys.executable, "-c", LIVES, url, name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process.stdout.readline().strip()
        process.kill()


def test_a_process_that_nobody_named_has_a_name_of_its_own(take):
    names = {take().name for _ in range(3)}
    assert len(names) == 3
    assert "" not in names
    assert not any(take().recurs for _ in range(2))


def test_a_name_is_taken_once_and_again_when_it_is_free(take):
    first, second = take("a"), take("a")
    assert (first.name, first.recurs) == ("a", True)
    assert second.name.startswith("a~")
    assert not second.recurs
    first.close()
    assert take("a").name == "a"


def test_the_longest_name_stays_within_the_column(take):
    assert [len(take("n" * 64).name) for _ in range(2)] == [64, 64]


def test_a_name_that_is_still_its_own_is_kept(take):
    holder = take("a")
    assert [holder.keep() for _ in range(3)] == [True] * 3
    assert holder.name == "a"


@pytest.mark.slow
def test_a_name_is_free_when_its_process_was_killed(take, database_url):
    with other_process(database_url, "a") as name:
        assert name == "a"
        assert take("a").name != "a"
    end = 100
    while (again := take("a")).name != "a" and end:
        end -= 1
    assert again.name == "a"


@pytest.mark.slow
def test_on_sqlite_the_killed_are_known_to_be_dead_and_the_living_are_not(tmp_path):
    url = f"sqlite:///{tmp_path / 'craft.db'}"
    store = Store(url)
    holder = Holder(store)
    with other_process(url, "lives"):
        assert holder.dead(["lives", holder.name, "never heard of", ""]) == []
    assert holder.dead(["lives", holder.name, "never heard of", ""]) == ["lives"]
    holder.tidy()
    assert len(list((tmp_path / "craft.db-holders").iterdir())) == 1
    holder.close()
    assert list((tmp_path / "craft.db-holders").iterdir()) == []
    store.close()


@pytest.mark.slow
def test_a_name_that_another_took_while_the_session_was_gone_is_given_up():
    from tests.support.databases import fresh_postgres

    store = Store(fresh_postgres())
    first = Holder(store, "a")
    first._names._session._engine.dispose()  # as a Postgres that restarts ends every session
    second = Holder(store, "a")
    assert second.name == "a"
    assert not first.keep()
    assert first.name.startswith("a~")
    first.close()
    second.close()
    store.close()
