"""Which tests are slow, so that `make test-fast` may leave them out.

Fast are tests of modules: shared/, server/, tuner/, benchmarks/. Slow is what looks at programs,
documents and published numbers as a whole (contract/, e2e/, golden/), and what is marked: it starts
a process or a Postgres, waits for a real clock, makes whole fits, or takes seconds. A test that is
not slow cannot start Python or a program of this project.
"""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

WHOLES = {Path(__file__).parent / name for name in ("contract", "e2e", "golden")}
PROGRAMS = Path(sys.executable).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if WHOLES & {*item.path.parents}:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The time of a test and of the fixtures that are made for it."""
    if item.get_closest_marker("slow"):
        return (yield)
    with patch.object(subprocess, "Popen", Unexpected):
        return (yield)


class Unexpected(subprocess.Popen):
    """What libraries may start, such as ldconfig, and a fast test may not."""

    def __init__(self, args, *rest, **options):
        if not isinstance(args, str) and Path(args[0]).parent == PROGRAMS:
            raise AssertionError(f"{args} is started: mark the test as slow (tests/conftest.py)")
        super().__init__(args, *rest, **options)
