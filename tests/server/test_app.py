"""What would end a server is found before its model is loaded."""

import sys

import pytest

from craft_server import app as application
from craft_server.db.schema import SchemaError
from craft_server.db.store import Store
from craft_server.settings import ModelError
from tests.support.released import run_script
from tests.support.serving import free_port, settings_in


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(application, "load_blackbox", lambda _: pytest.fail("it was loaded"))
    monkeypatch.setattr(application.logs, "configure", lambda *_: None)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"image_url": "ftp://h/x"}, ValueError, "image_url 'ftp://h/x' cannot be used"),
        ({"image_url": "s3://"}, ValueError, "image_url 's3://' cannot be used"),
        ({"otel_endpoint": "http://127.0.0.1:1"}, ModelError, "needs the extra `otel`"),
        ({"migrate": False}, SchemaError, "the database is empty, .*run `craft-server db upgrade`"),
    ],
)
def test_what_the_settings_name_and_cannot_be_had(tmp_path, monkeypatch, fields, error, says):
    monkeypatch.setitem(sys.modules, "craft_server.observability.otel", None)
    with pytest.raises(error, match=says):
        application.serve(settings_in(tmp_path, port=free_port(), **fields))


def test_a_database_of_a_newer_server(tmp_path):
    url = f"sqlite:///{tmp_path / 'craft.db'}"
    Store(url).close()
    run_script(url, "UPDATE alembic_version SET version_num = '0999';\n")
    with pytest.raises(SchemaError, match="revision '0999', which this craft-server does not"):
        application.serve(settings_in(tmp_path, port=free_port()))
