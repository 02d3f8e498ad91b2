"""A forbidden import fails the lint, and fails the contract that is about it.

Each is planted as a file of its own into a copy of the packages.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAMS = "The two programs share the protocol and nothing else"
SERVER = "Layers of the server"
TUNER = "Layers of the tuner"
CIRCLES = "No imports in a circle, at any depth"
CLIP = "CLIP lives in the server's models"
TORCH = "Torch lives in models and heads"
WEB = "The web framework lives in api"
SQL = "SQL lives where rows are kept"
HTTP = "HTTP lives in the tuner's client"
OPTIMISER = "The tuner alone optimises and draws"
LOAD = "The app alone loads a model"
LIGHT = "Predictions and reports load no torch"
PRINT = "Commands and command lines print"
METHODS = "Methods know no HTTP and no image files"

PLANTS = {
    "rich in training": ({"craft_tuner/training/x.py": "import rich"}, {PRINT}),
    "typer in the protocol": ({"craft_shared/x.py": "import typer"}, {PRINT}),
    "torch in report": ({"craft_tuner/report/x.py": "import torch"}, {TORCH, LIGHT}),
    "torch in inference, in a function": (
        {"craft_tuner/inference/x.py": "def run():\n    import torch"},
        {TORCH, LIGHT},
    ),
    "torch in inference, by way of heads": (
        {
            "craft_tuner/inference/x.py": "from craft_tuner.heads import x",
            "craft_tuner/heads/x.py": "import torch",
        },
        {LIGHT},
    ),
    "torch in the protocol": ({"craft_shared/x.py": "import torch"}, {TORCH}),
    "httpx in methods": ({"craft_tuner/methods/x.py": "import httpx"}, {HTTP, METHODS}),
    "the client in methods": ({"craft_tuner/methods/x.py": "import craft_tuner.client"}, {METHODS}),
    "fastapi in metering": ({"craft_server/metering/x.py": "import fastapi"}, {WEB}),
    "fastapi in logits": ({"craft_server/logits/x.py": "from fastapi import Request"}, {WEB}),
    "fastapi in the tuner": ({"craft_tuner/client/x.py": "import fastapi"}, {WEB}),
    "open_clip in engine": ({"craft_server/engine/x.py": "import open_clip"}, {CLIP, LOAD}),
    "a model in api": ({"craft_server/api/x.py": "import craft_server.models"}, {LOAD}),
    "sqlalchemy in routes": (
        {"craft_server/api/routes/x.py": "from sqlalchemy.orm import Session"},
        {SQL},
    ),
    "an optimiser in the server": ({"craft_server/logits/x.py": "import cma"}, {OPTIMISER}),
    "up, in the server": ({"craft_server/db/x.py": "import craft_server.api"}, {SERVER, CIRCLES}),
    "up, in the tuner": ({"craft_tuner/data/x.py": "import craft_tuner.client"}, {TUNER, CIRCLES}),
    "sideways": ({"craft_server/metering/x.py": "import craft_server.engine"}, {SERVER}),
    "a circle within a package": (
        {
            "craft_tuner/methods/x.py": "from craft_tuner.methods import y",
            "craft_tuner/methods/y.py": "from craft_tuner.methods import x",
        },
        {CIRCLES},
    ),
    "the server in the tuner": ({"craft_tuner/commands/x.py": "import craft_server"}, {PROGRAMS}),
    "the tuner in the server": ({"craft_server/cli/x.py": "import craft_tuner"}, {PROGRAMS}),
    "a program in the protocol": ({"craft_shared/x.py": "import craft_server.db"}, {PROGRAMS}),
    "a package on no line, in the server": ({"craft_server/x/__init__.py": ""}, {SERVER}),
    "a package on no line, in the tuner": ({"craft_tuner/x/__init__.py": ""}, {TUNER}),
}
"""What is planted -> the files, and the names of all contracts that they break."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the three packages and their contracts."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("server/craft_server", "tuner/craft_tuner", "shared/craft_shared"):
        ignored = shutil.ignore_patterns("__pycache__", "embedded")
        shutil.copytree(ROOT / package, folder / Path(package).name, ignore=ignored)
    return folder


def broken(tree: Path) -> set[str]:
    """The contracts of `tree` that are broken; it is parsed anew where it changed."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-logo"]
    done = subprocess.run(command, check=False, cwd=tree, capture_output=True, text=True)
    summary = re.search(r"^Contracts: \d+ kept, (\d+) broken\.$", done.stdout, re.MULTILINE)
    assert summary, f"no lint:\n{done.stdout}{done.stderr}"
    found = set(re.findall(r"^(.+) BROKEN$", done.stdout, re.MULTILINE))
    assert (len(found), done.returncode) == (int(summary[1]), int(bool(found)))
    return found


@pytest.fixture
def planted(tree: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """`tree` with the files that the test names, until it ends."""
    files = [tree / name for name in request.param]
    for file, text in zip(files, request.param.values(), strict=True):
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'"""Planted."""\n\n{text}\n')
    yield tree
    for file in files:
        file.unlink()
        if file.name == "__init__.py":
            file.parent.rmdir()


def test_every_contract_has_a_plant() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    planted = set().union(*(contracts for _, contracts in PLANTS.values()))
    assert planted == {contract["name"] for contract in options["contracts"]}


def test_the_packages_as_they_are_pass(tree: Path) -> None:
    assert broken(tree) == set()


@pytest.mark.parametrize(
    ("planted", "contracts"), PLANTS.values(), ids=PLANTS, indirect=["planted"]
)
def test_a_forbidden_import_fails(planted: Path, contracts: set[str]) -> None:
    assert broken(planted) == contracts
