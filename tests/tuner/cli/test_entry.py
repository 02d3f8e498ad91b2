"""The program's beginning and end: its version, its variables, Ctrl-C at any moment."""

import contextlib
import subprocess
import sys
from unittest.mock import Mock

import pytest

from craft_tuner.cli import entry
from tests.support.tuner_commands import typing_to
from tests.support.tuner_server import FakeServer
from tests.support.waiting import Heard

pytestmark = pytest.mark.slow


def test_the_version_is_that_of_the_program_and_its_protocol():
    with typing_to(FakeServer()) as tuner:
        code, out, error = tuner("--version")
    assert (code, error) == (0, "")
    assert out.startswith("craft-tuner 0.")
    assert out.endswith(" (protocol v1)\n")


def test_a_misspelt_variable_is_said_and_the_command_goes_on(monkeypatch):
    monkeypatch.setenv("CRAFT_SERVR_URL", "http://else.test")
    with typing_to(FakeServer()) as tuner:
        code, out, error = tuner("usage")
    assert (code, out.startswith("start\t")) == (0, True)
    assert "warning: CRAFT_SERVR_URL is no variable of craft-tuner" in error
    assert "did you mean CRAFT_SERVER_URL?" in error


class SlowDisk:
    """The program's modules are found once somebody was told that it takes long."""

    def __init__(self, heard):
        self._heard = heard

    def find_spec(self, name, *_):
        if name == "craft_tuner.cli.main":
            self._heard.wait(name)


def test_a_program_that_loads_slowly_says_so(monkeypatch):
    heard = Heard(terminal=False)
    monkeypatch.setattr(entry, "LOADING_S", 0.01)
    monkeypatch.setattr(sys, "meta_path", [SlowDisk(heard), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["craft-tuner", "--version"])
    monkeypatch.setattr(entry.signal, "signal", lambda *_: None)
    monkeypatch.setattr(entry.gc, "freeze", frozen := Mock())
    monkeypatch.delitem(sys.modules, "craft_tuner.cli.main")
    with contextlib.redirect_stderr(heard), pytest.raises(SystemExit) as exit_:
        entry.main()
    assert exit_.value.code == 0
    assert frozen.called
    assert heard.waits["craft_tuner.cli.main"] == "still loading the program\n"


PROGRAM = """
import atexit, os, signal, sys

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

moment, times, *arguments = sys.argv[1:]

class Moment:
    def find_spec(self, name, *_):
        if name == moment:
            interrupt()

from craft_tuner.cli import entry

sys.meta_path.insert(0, Moment())
if times == "twice":
    atexit.register(interrupt)
sys.argv = ["craft-tuner", *arguments]
entry.main()
"""


@pytest.mark.parametrize("times", ["once", "twice"])
@pytest.mark.parametrize(
    "moment",
    [
        "craft_tuner.cli.main",
        "typer",
        "pydantic",
        "craft_tuner.config.fit_config",
        "craft_tuner.commands.fit",
        "httpx",
    ],
)
def test_ctrl_c_is_a_line_at_any_moment(moment, times):
    command = ("usage", "--server", "http://127.0.0.1:9", "--key", "craft_x")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, moment, times, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    said = [line for line in done.stderr.splitlines() if not line.startswith("still ")]
    assert said == ["craft-tuner: interrupted"]
