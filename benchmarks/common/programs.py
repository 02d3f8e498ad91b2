"""The programs that benchmarks start: craft-server, craft-tuner, and modules of this repository.

A module runs as `python -m NAME` in a process that finds the repository's packages wherever it is
started: nothing here builds the path of a source file.
"""

import os
import shutil
import sys
from pathlib import Path


def _program(name: str) -> Path:
    """A program of this installation; else the one on the PATH, as gpu/unpack.py puts it there."""
    beside = Path(sys.executable).parent / name
    found = None if beside.is_file() else shutil.which(name)
    return Path(found) if found else beside


SERVER = _program("craft-server")
TUNER = _program("craft-tuner")
ROOT = Path(__file__).parents[2]


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a module in a process; its environment is `environment()`."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of this process, with the repository on the path of modules."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
