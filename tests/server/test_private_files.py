"""What this server makes is its account's alone, and what it finds of its own becomes so."""

import os
import sqlite3
import stat

import pytest
from starlette.testclient import TestClient

from craft_server import private_files
from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.db.store import Store
from craft_shared.errors import Refusal
from tests.support.serving import image_set, settings_in, stub_box, text_request


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def serve(folder):
    """Start a server, upload, ask, stop."""
    settings = settings_in(folder)
    app = create_app(settings, stub_box(settings))
    token = services_of(app).keys.create("ann", 10).token
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        request = text_request(image_set(client))
        reply = client.post("/v1/logits", json=request, headers={"Idempotency-Key": "one"})
        assert reply.status_code == 200
        check(folder)


def check(folder):
    found = {path: mode(path) for path in [folder, *folder.rglob("*")]}
    assert {path.name for path in found} >= {"craft.db", "craft.db-wal", "features.db", "images"}
    for path, bits in found.items():
        assert bits == (0o700 if path.is_dir() else 0o600), path


def test_everything_that_a_server_makes_is_private(tmp_path):
    serve(tmp_path / "a" / "var")
    assert mode(tmp_path / "a") == 0o700


def test_what_an_older_server_made_is_tightened_at_the_next_start(tmp_path):
    folder = tmp_path / "var"
    serve(folder)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    serve(folder)


def test_a_database_that_the_command_line_makes_is_private_and_the_folder_is_not_touched(tmp_path):
    tmp_path.chmod(0o755)
    Store(f"sqlite:///{tmp_path / 'craft.db'}").close()
    assert (mode(tmp_path), mode(tmp_path / "craft.db")) == (0o755, 0o600)


def test_the_files_that_sqlite_left_beside_it_are_tightened(tmp_path):
    path = tmp_path / "craft.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE made_by_another (a)")
        beside = path.with_name("craft.db-wal")
        beside.chmod(0o644)
        private_files.tighten(beside)
        assert mode(beside) == 0o600
    connection.close()


def test_a_folder_that_is_shared_on_purpose_stays_shared(tmp_path):
    tmp_path.chmod(0o1777)
    private_files.tighten(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_what_belongs_to_another_account_stays_as_it_is(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    private_files.tighten(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_mount_that_knows_no_modes_is_no_error(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    private_files.tighten(tmp_path)
    private_files.tighten(tmp_path / "nothing")
    assert mode(tmp_path) == 0o755


def test_a_folder_below_a_file_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        private_files.make_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("where", ["data_dir", "image_url", "database_url"])
def test_a_folder_with_anything_else_in_it_is_not_locked(tmp_path, where):
    """A server of the root account with its data in `/` once made `/` its own: nobody else ran."""
    others = tmp_path / "others"
    others.mkdir(mode=0o755)
    (others / "of-somebody").write_text("")
    (others / "of-somebody").chmod(0o644)
    places = {
        "data_dir": {"data_dir": others},
        "image_url": {"data_dir": tmp_path / "var", "image_url": f"file://{others}"},
        "database_url": {
            "data_dir": tmp_path / "var",
            "database_url": f"sqlite:///{others / 'craft.db'}",
        },
    }
    settings = settings_in(tmp_path).model_copy(update=places[where])
    app = create_app(settings, stub_box(settings))
    with TestClient(app) as client:
        assert client.get("/livez").status_code == 200
    assert (mode(others), mode(others / "of-somebody")) == (0o755, 0o644)


def test_a_folder_in_the_place_of_the_database_keeps_its_mode(tmp_path):
    folder = tmp_path / "craft.db"
    folder.mkdir(mode=0o755)
    with pytest.raises(Refusal):
        Store(f"sqlite:///{folder}")
    assert mode(folder) == 0o755
