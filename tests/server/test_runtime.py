"""Libraries are configured before they load, unless users say otherwise; freed memory goes back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.slow
def test_libraries_are_configured_before_torch_is_there():
    plain = {
        name: value for name, value in os.environ.items() if name not in runtime.LIBRARY_SETTINGS
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=plain, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("2000", 0), done.stderr


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be asked")
def test_what_was_freed_in_many_small_blocks_is_given_back():
    blocks = [np.ones(8000) for _ in range(2000)]
    kept = blocks[::400]  # so that the blocks between cannot simply fall off the end of the heap
    del blocks
    before = resident_bytes()
    runtime.trim_memory()
    assert before - resident_bytes() > 60_000_000
    assert len(kept) == 5


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.trim_memory() is False
