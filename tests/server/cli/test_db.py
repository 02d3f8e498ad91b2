"""`craft-server db` says where a database stands, and brings it to the newest revision."""

import json
from pathlib import Path
from typing import Any

import pytest

from craft_server.db.schema import HEAD
from craft_server.db.store import Store, revision
from tests.support.commands import Run
from tests.support.released import release, rows, run_script, shape


@pytest.fixture
def run(database_url: str, craft_server: Run) -> Run:
    """Run `craft-server ARGUMENTS` on the database."""
    return lambda *arguments: craft_server(*arguments, "--database-url", database_url)


def status(run: Run) -> dict[str, Any]:
    done = run("db", "status", "--json")
    assert done.code == 0
    return json.loads(done.out)


def test_an_empty_database_has_no_revision_and_stays_empty(run: Run, database_url: str):
    assert status(run) == {"revision": None, "head": HEAD, "pending": []}
    assert shape(database_url) == {}


def test_an_old_database_is_reported_what_is_pending(run: Run, database_url: str):
    release(database_url)
    assert status(run) == {"revision": "0001", "head": HEAD, "pending": ["0002", "0003", "0004"]}
    assert revision(database_url) == "0001"


def test_a_newer_database_is_shown_as_it_is(run: Run, database_url: str):
    Store(database_url).close()
    run_script(database_url, "UPDATE alembic_version SET version_num = '0999';\n")
    assert status(run) == {"revision": "0999", "head": HEAD, "pending": []}


def test_the_status_is_a_row_where_no_json_is_asked_for(run: Run, database_url: str):
    release(database_url)
    assert run("db", "status").out.splitlines() == [
        "revision\thead\tpending",
        f"0001\t{HEAD}\t0002 0003 0004",
    ]


@pytest.mark.parametrize("make", [release, lambda url: Store(url).close(), lambda url: None])
def test_an_upgrade_ends_at_the_newest_revision(run: Run, database_url: str, make: Any):
    make(database_url)
    done = run("db", "upgrade")
    assert (done.code, done.out) == (0, "")
    assert f"at revision {HEAD}" in done.err
    assert status(run) == {"revision": HEAD, "head": HEAD, "pending": []}


def test_an_upgrade_that_is_asked_for_runs_where_migrate_is_off(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CRAFT_SERVER_MIGRATE", "false")
    release(database_url)
    refused = run("keys", "list")
    assert (refused.code, refused.out) == (1, "")
    assert "run `craft-server db upgrade`" in refused.err
    assert run("db", "upgrade").code == 0
    assert run("keys", "list").code == 0
    assert len(rows(database_url)["keys"]) == 2


@pytest.mark.parametrize("command", [("db", "upgrade"), ("keys", "list")])
def test_a_newer_database_is_one_sentence_and_exit_code_1(
    run: Run, database_url: str, command: tuple[str, ...]
):
    Store(database_url).close()
    run_script(database_url, "UPDATE alembic_version SET version_num = '0999';\n")
    done = run(*command)
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "'0999'" in done.err


def test_the_database_of_a_data_folder_is_the_default(tmp_path: Path, craft_server: Run):
    folder = tmp_path / "data"
    folder.mkdir()
    release(f"sqlite:///{folder / 'craft.db'}")
    done = craft_server("db", "status", "--json", "--data-dir", str(folder))
    assert json.loads(done.out)["revision"] == "0001"
