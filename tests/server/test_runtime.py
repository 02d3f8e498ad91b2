"""Libraries are told before they are loaded, and users have the last word."""

import os
import subprocess
import sys

from craft_server import runtime

LOADED = """
import sys
from craft_server.app import load_blackbox
from craft_server.settings import Settings
assert "torch" not in sys.modules
load_blackbox(Settings(model="embedded"))
import os
assert "torch" in sys.modules
print(os.environ["GOMP_SPINCOUNT"])
"""


def test_what_is_not_set_is_set_and_what_is_set_stays(monkeypatch):
    for name in runtime.LIBRARY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    runtime.configure_libraries()
    assert {
        name: os.environ[name] for name in runtime.LIBRARY_SETTINGS
    } == runtime.LIBRARY_SETTINGS | {"GOMP_SPINCOUNT": "7"}


def test_libraries_are_told_before_torch_is_there():
    plain = {
        name: value for name, value in os.environ.items() if name not in runtime.LIBRARY_SETTINGS
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=plain, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("2000", 0), done.stderr
