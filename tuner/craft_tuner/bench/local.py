"""The engine of one machine: some worker processes, each doing one cell after another.

A worker that is killed fails the cell it had, no other; a new one takes its place. Workers leave
Ctrl-C to the process that started them, and end when it ends, however that happens.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait

from craft_tuner.bench.worker import TICK_S, DoJob, Job, JobResult, do

_SPAWN = multiprocessing.get_context("spawn")
"""A fork would share threads' locks with torch."""


class LocalEngine:
    """`jobs` processes; `work` must be importable by name from a fresh interpreter."""

    def __init__(self, jobs: int, *, work: DoJob = do) -> None:
        self._jobs = jobs
        self._work = work

    def run(self, jobs: Sequence[Job]) -> Generator[JobResult | None, None, None]:
        """See `Engine.run`."""
        waiting = deque(jobs)
        workers: list[_Worker] = []
        try:
            while waiting and len(workers) < self._jobs:
                workers.append(_Worker(self._work, waiting.popleft()))
            while workers:
                ready = wait([worker.pipe for worker in workers], timeout=TICK_S)
                if not ready:
                    yield None
                for worker in [one for one in workers if one.pipe in ready]:
                    result, alive = worker.take()
                    yield result
                    if waiting and alive:
                        worker.give(waiting.popleft())
                        continue
                    worker.stop()
                    workers.remove(worker)
                    if waiting:
                        workers.append(_Worker(self._work, waiting.popleft()))
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process with a job."""

    def __init__(self, work: DoJob, job: Job) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()
        self.give(job)

    def give(self, job: Job) -> None:
        self._job = job
        with contextlib.suppress(BrokenPipeError):  # it is dead: `take` will say so
            self.pipe.send(job)

    def take(self) -> tuple[JobResult, bool]:
        """The result of its job, and whether it can do another."""
        try:
            result: JobResult = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return JobResult(self._job.name, _death(self._process.exitcode)), False
        return result, True

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def serve(pipe: Connection, work: DoJob) -> None:
    """A worker's life: jobs in, results out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            pipe.send(work(pipe.recv()))


def _end_with_parent() -> None:
    """A starter that was killed can stop nobody: its workers must not go on without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(code: int | None) -> str:
    how = f"ended with exit code {code}"
    if code is not None and code < 0:
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"its worker process {how}; what was bought is kept: go on with --retry-failed"
