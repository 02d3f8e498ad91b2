"""Freed memory goes back to the system where the C library can be asked for it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from craft_server import runtime


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be asked")
def test_what_was_freed_in_many_small_blocks_is_given_back():
    blocks = [np.ones(8000) for _ in range(2000)]
    kept = blocks[::400]  # so that the blocks between cannot simply fall off the end of the heap
    del blocks
    before = resident_bytes()
    runtime.give_back()
    assert before - resident_bytes() > 60_000_000
    assert len(kept) == 5


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.give_back() is False
