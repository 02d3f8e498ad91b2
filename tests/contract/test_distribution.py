"""The built wheel: three packages, the embedded model, the presets, and nothing else."""

import subprocess
import sys
import zipfile

import pytest

from craft_server.db.schema import REVISIONS
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_three_packages_and_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"craft_server", "craft_tuner", "craft_shared"}


def test_data_files_are_shipped(names):
    embedded = {"embedded.json", "weights.safetensors", "card.json"}
    assert {f"craft_server/embedded/{name}" for name in embedded} <= names
    assert "craft_tuner/presets/digits.toml" in names
    assert {"craft_tuner/report/page.html", "craft_tuner/report/page.css"} <= names
    assert "craft_tuner/bench/published.toml" in names
    assert {
        f"{package}/py.typed" for package in ("craft_server", "craft_tuner", "craft_shared")
    } <= (names)


def test_every_migration_is_shipped(names):
    folder = "craft_server/migrations"
    scripts = {name for name in names if name.startswith(f"{folder}/versions/0")}
    assert [name.split("/")[-1][:4] for name in sorted(scripts)] == [*REVISIONS]
    assert f"{folder}/env.py" in names


def test_no_wheel_file_is_a_test_or_a_cache(names):
    assert [name for name in names if "__pycache__" in name or "Dockerfile" in name] == []
