"""One cell at work: the same use case as `craft-tuner fit --resume`, wherever an engine puts it.

A cell's run directory is all that it leaves; its engine reads the result there. So a cell that
is killed is resumed by doing it again, and buys nothing twice.
"""

import contextlib
import resource
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from craft_tuner.config.settings import Settings
from craft_tuner.errors import CraftTunerError, printable
from craft_tuner.files import private

TICK_S = 1.0
"""How often an engine lets its caller look at cells that are at work."""


@dataclass(frozen=True)
class Job:
    """A cell to be done: absolute paths, and how to reach the server (with the key)."""

    name: str
    run: Path
    log: Path
    settings: Settings


@dataclass(frozen=True)
class JobResult:
    """What became of a job; `reason` says why it failed, None: it is done."""

    name: str
    reason: str | None = None
    peak_bytes: int = 0
    """Most memory that its process has had, other cells it did before included."""
    seconds: float = 0.0
    """That it took its worker."""


DoJob = Callable[[Job], JobResult]


class Engine(Protocol):
    """Whatever carries jobs out."""

    def run(self, jobs: Sequence[Job]) -> Generator[JobResult | None, None, None]:
        """Outcomes in the order of their coming; None about every `TICK_S` in between.

        Closing the iterator stops what is at work; it can be resumed.
        """
        ...


def do(job: Job) -> JobResult:
    """Carry a job out; whatever it says goes to its log."""
    started = time.monotonic()
    result = JobResult(job.name, _reason(job))
    return replace(result, seconds=time.monotonic() - started, peak_bytes=peak_bytes())


def _reason(job: Job) -> str | None:
    """Why a job failed; None: it is done."""
    from craft_tuner.commands import fit as commands  # noqa: PLC0415 - a worker that waits needs none of it

    job.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(job.log, "a", encoding="utf-8", buffering=1, opener=private) as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        try:
            commands.resume(job.run, job.settings)
        except CraftTunerError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - one broken cell must not end the others
            traceback.print_exc()
            return printable(f"{type(error).__name__}: {error} (traceback in {job.log})")
    return None


def peak_bytes() -> int:
    """Most memory that this process has had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
