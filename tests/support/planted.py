"""A place where `craft-server serve` would serve, and a way to plant one fault in it."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from craft_server.accounts.identity import Scope
from craft_server.accounts.keys import Keys
from craft_server.db.store import Store
from tests.support.commands import Ran, Run
from tests.support.serving import free_port


class World:
    """A data folder with keys, and the options and variables of a server that uses it.

    Attributes:
        folder: of the test.
        data: the data folder.
        patch: changes the environment and what the code sees of the machine.
        options: of the command line.
        held: what is kept open while the command runs.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, held: ExitStack) -> None:
        self.folder, self.data, self.patch, self.held = folder, folder / "data", patch, held
        self.options = ["--data-dir", str(self.data), "--port", str(free_port())]
        self.set(model="stub")

    @property
    def url(self) -> str:
        return f"sqlite:///{self.data / 'craft.db'}"

    def set(self, **settings: Any) -> None:
        """Settings by variables."""
        for name, value in settings.items():
            self.patch.setenv(f"CRAFT_SERVER_{name.upper()}", str(value))

    def give(self, *options: Any) -> None:
        self.options += map(str, options)

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


class Fault(NamedTuple):
    """What is planted, and what has to be said of it: its state and words of the line."""

    id: str
    plant: Callable[[World], Any]
    state: str
    words: str


def prepare(folder: Path) -> None:
    """A data folder with a key of a client and one of an administrator."""
    with closing(Store(f"sqlite:///{folder / 'craft.db'}")) as store:
        Keys(store).create("ann", 100)
        Keys(store).create("root", 0, scopes=[Scope.ADMIN])


def world_in(folder: Path, prepared: Path, patch: pytest.MonkeyPatch, held: ExitStack) -> World:
    world = World(folder, patch, held)
    shutil.copytree(prepared, world.data)
    return world


def screen(run: Run, world: World, *options: str) -> list[dict[str, str]]:
    """The findings of `craft-server check`, which must leave all as it was."""
    before = tree(world.folder)
    done: Ran = run("check", *world.options, *options, "--json")
    assert tree(world.folder) == before
    found: list[dict[str, str]] = json.loads(done.out)
    assert done.code == any(each["state"] == "fail" for each in found)
    assert all(each["do"] for each in found if each["state"] != "ok")
    assert all("\n" not in each["found"] + each["do"] for each in found)
    return found


def troubles(found: list[dict[str, str]]) -> list[str]:
    """The lines that are not ok, as people read them."""
    return [
        f"{each['state']} {each['found']}; {each['do']}" for each in found if each["state"] != "ok"
    ]


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of everything in a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            stat = (Path(root) / name).lstat()
            found[str(Path(root) / name)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns)
    return found
