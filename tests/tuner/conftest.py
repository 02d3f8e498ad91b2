"""Commands typed in this process to a server in memory, in a folder of their own."""

import math

import pytest

from craft_tuner.commands import fit as commands
from craft_tuner.commands import progress
from tests.support.tuner_commands import typing_to
from tests.support.tuner_server import FakeServer


@pytest.fixture(scope="session", autouse=True)
def patient():
    """However slow the machine is, nothing is said of what takes long: tests compare every line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "QUIET_S", math.inf)
        yield


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def tuner(server, monkeypatch, tmp_path):
    """Run `craft-tuner ARGUMENTS` in this process: (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "write_report", lambda run: run.path / "report.html")
    with typing_to(server) as run:
        yield run
