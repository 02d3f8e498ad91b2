"""Where settings come from: variables before mounted files, a password beside its URL."""

from pathlib import Path

import pytest

from craft_server.db.engines import make_engine
from craft_server.db.store import Store
from craft_server.settings import Settings

URL = "postgresql+psycopg://craft@postgres/craft"


def test_a_mounted_file_gives_the_password_of_the_database(tmp_path):
    (tmp_path / "craft_server_database_password").write_text("s3cret/@:\n")
    settings = Settings(_secrets_dir=tmp_path, database_url=URL)
    assert settings.resolved_database_url.render_as_string(hide_password=False) == (
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
    assert settings.resolved_database_url.password == "own"


@pytest.mark.parametrize(
    "text", ["postgres at home", "", "/srv/craft.db", "postgresql://h:abc/x", "postgresql://[::1/x"]
)
def test_what_is_no_url_is_refused_in_a_sentence(text):
    with pytest.raises(
        ValueError, match=r"database_url cannot be used: .*sqlite:////srv/craft\.db"
    ):
        _ = Settings(database_url=text).resolved_database_url


@pytest.mark.parametrize("kind", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_by_any_of_its_names_is_reached_by_psycopg(kind):
    url = Settings(database_url=f"{kind}://craft@postgres:5433/craft?sslmode=require")
    assert str(url.resolved_database_url) == (
        "postgresql+psycopg://craft@postgres:5433/craft?sslmode=require"
    )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "per%20cent",
            "a#b",
            "a?b",
            "a?mode=ro",
            "with space",
            "ünï 図",
            "a;b",
            "a@b:c",
            "%zz",
            "%",
        ),
        *("file:x", ":memory:", "~", "$HOME", "[x]", "a+b", "a&b=c", "-x", "a\nb", "'", "\udcff"),
    ],
)
def test_the_ledger_lies_in_the_folder_that_was_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / name, Path(name)):
        store = Store(Settings(data_dir=folder).resolved_database_url)
        store.close()
        assert store.path == tmp_path / name / "craft.db"
        assert store.place == str(store.path)
        assert store.path.stat().st_size > 0
        assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_place_tells_no_password():
    store = object.__new__(Store)
    store._engine = make_engine(
        Settings(database_url=URL, database_password="s3").resolved_database_url, 1
    )
    assert store.place == URL.replace("craft@", "craft:***@")


def test_another_driver_stays():
    url = Settings(database_url="postgresql+psycopg2://h/craft").resolved_database_url
    assert url.drivername == "postgresql+psycopg2"


@pytest.mark.parametrize(
    ("host", "address"),
    [("[::1]", "::1"), ("::1", "::1"), ("[fe80::1%eth0]", "fe80::1%eth0"), ("[::", "[::")],
)
def test_an_address_may_stand_in_brackets_as_in_a_url(host, address):
    assert Settings(host=host).host == Settings(metrics_host=host).metrics_host == address
