"""A stub server inside the test's process, and keys for it."""

import sys

import pytest
from starlette.testclient import TestClient

from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.cli.main import main
from tests.support.commands import Ran
from tests.support.databases import fresh_postgres
from tests.support.serving import settings_in, stub_box


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database_url(request, tmp_path):
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'craft.db'}"
    return fresh_postgres()


@pytest.fixture
def craft_server(monkeypatch, capsys):
    """Run `craft-server ARGUMENTS` in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["craft-server", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), out, err)

    return run


@pytest.fixture
def settings(tmp_path, request):
    """Of the server; parametrize it `indirect` with a dictionary to change some."""
    return settings_in(tmp_path, **getattr(request, "param", {}))


@pytest.fixture
def box(settings):
    return stub_box(settings)


@pytest.fixture
def app(settings, box):
    return create_app(settings, box)


@pytest.fixture
def anonymous(app):
    """A client without a key."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(app, anonymous):
    """A client with a key for 100 queries, of the owner `ann`."""
    anonymous.headers["Authorization"] = f"Bearer {mint(app, 100).token}"
    return anonymous


def mint(app, queries, *, owner="ann", **fields):
    return services_of(app).keys.create(owner, queries, **fields)


@pytest.fixture
def mint_key(app):
    """Make a key: `mint_key(queries, owner=..., scopes=...)`."""
    return lambda queries, **fields: mint(app, queries, **fields)
