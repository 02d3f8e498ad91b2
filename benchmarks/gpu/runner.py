"""Runs sections one after the other within a time, each so that its failure is its own.

A section is a process forked from this one: a crash, a hang or a poisoned CUDA context ends with
it, and so does every server that it started. It says its rows as it finds them, so that a section
that is cut off keeps what it had. This process must therefore never touch CUDA.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
Say = Callable[[Row], None]

DONE, FAILED, CUT, LEFT = "done", "failed", "cut off", "left out"
_TRACE = 2000


class SectionError(Exception):
    """A fault that is reported in its own words, without its type."""


@dataclass(frozen=True)
class Scene:
    """What every section gets.

    Attributes:
        device: the device's name, as `craft-server serve --device` takes it.
        small: a rehearsal: everything runs, as little as possible of it.
        folder: the section's own.
    """

    device: str
    small: bool
    folder: Path

    @property
    def torch_device(self) -> torch.device:
        """The device."""
        return torch.device(self.device)


@dataclass(frozen=True)
class Section:
    """One thing that is measured.

    Attributes:
        name: one word.
        title: its heading.
        run: says rows.
        columns: of the table, as `machine.print_table` takes them.
        least_s: not begun with less time than this.
        most_s: cut off after this.
        needs_device: left out where the device is not here.
    """

    name: str
    title: str
    run: Callable[[Scene, Say], None]
    columns: dict[str, str]
    least_s: float = 10.0
    most_s: float = 120.0
    needs_device: bool = True


@dataclass
class Result:
    """What came of a section."""

    name: str
    title: str
    status: str
    why: str | None = None
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    trace: str | None = None


End = tuple[str, str | None, str | None]
"""Status, sentence, trace."""

Launch = Callable[[Section, Scene, float, Say], End]
"""Runs a section for so many seconds at most."""


def sentence_of(error: BaseException) -> str:
    """A failure in one line: its first, and its last if the first only announces that."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    if first.endswith(":"):
        first = f"{first} {lines[-1].strip()}"
    if isinstance(error, (SectionError, SystemExit)):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def inline(section: Section, scene: Scene, limit_s: float, say: Say) -> End:
    """Run a section in this process; `limit_s` is not kept."""
    del limit_s
    try:
        section.run(scene, say)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it belongs to the section
        return FAILED, sentence_of(error), traceback.format_exc()[-_TRACE:]
    return DONE, None, None


def forked(section: Section, scene: Scene, limit_s: float, say: Say) -> End:
    """Run a section in a process of its own, and end it and all that it started."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(section, scene, there), name=section.name)
    process.start()
    there.close()
    try:
        return _listen(here, process, limit_s, say)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()  # it may not have made its group yet
        process.join()


def _child(section: Section, scene: Scene, pipe: Connection) -> None:
    """The section's process: a group of its own, its output in a file."""
    os.setsid()
    log = os.open(scene.folder / f"{section.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    pipe.send(inline(section, scene, 0.0, lambda row: pipe.send(dict(row))))
    pipe.close()


def _listen(pipe: Connection, process: Any, limit_s: float, say: Say) -> End:
    until = time.monotonic() + limit_s
    while pipe.poll(max(0.0, until - time.monotonic())):
        try:
            said = pipe.recv()
        except EOFError:
            process.join()
            return FAILED, f"its process ended with {process.exitcode} in the middle", None
        if isinstance(said, tuple):
            return said[0], said[1], said[2]
        say(said)
    return CUT, f"cut off after {limit_s:.0f} s", None


def run_all(
    sections: Sequence[Section],
    scene: Scene,
    tell: Callable[[Section, Result], None],
    *,
    budget_s: float,
    launch: Launch = forked,
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Run sections in order; `tell` is called after each of them.

    Args:
        sections: by worth.
        scene: what every section gets.
        tell: writes down what came of a section.
        budget_s: seconds for all of them together.
        launch: how a section is run.
        clock: seconds.
    """
    end, results = clock() + budget_s, []
    missing: str | None = None
    for section in sections:
        left = end - clock()
        result = Result(section.name, section.title, LEFT)
        if missing and section.needs_device:
            result.why = missing
        elif left < section.least_s:
            result.why = f"time: {max(0, left):.0f} s are left, it needs {section.least_s:.0f} s"
        else:
            began = clock()
            limit = min(section.most_s, left)
            ended = launch(section, scene, limit, result.rows.append)
            result.status, result.why, result.trace = ended
            result.seconds = round(clock() - began, 2)
            absent = [row["no_device"] for row in result.rows if "no_device" in row]
            missing = missing or next(iter(absent), None)
        results.append(result)
        tell(section, result)
    return results
