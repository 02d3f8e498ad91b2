"""Where settings come from: variables before mounted files, a password beside its URL."""

import pytest

from craft_server.settings import Settings

URL = "postgresql+psycopg://craft@postgres/craft"


def test_a_mounted_file_gives_the_password_of_the_database(tmp_path):
    (tmp_path / "craft_server_database_password").write_text("s3cret/@:\n")
    settings = Settings(_secrets_dir=tmp_path, database_url=URL)
    assert settings.resolved_database_url == (
        "postgresql+psycopg://craft:s3cret%2F%40%3A@postgres/craft"
    )
    assert "s3cret" not in repr(settings)


def test_a_variable_is_stronger_than_a_mounted_file(tmp_path, monkeypatch):
    (tmp_path / "craft_server_port").write_text("9000")
    assert Settings(_secrets_dir=tmp_path).port == 9000
    monkeypatch.setenv("CRAFT_SERVER_PORT", "9001")
    assert Settings(_secrets_dir=tmp_path).port == 9001


def test_a_password_in_the_url_is_kept():
    settings = Settings(database_url=URL.replace("craft@", "craft:own@"), database_password="other")
    assert settings.resolved_database_url == URL.replace("craft@", "craft:own@")


def test_what_is_no_url_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="database_url cannot be used"):
        _ = Settings(database_url="postgres at home").resolved_database_url
