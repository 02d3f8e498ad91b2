"""The engine of many machines: one Ray task a cell.

A task whose worker is killed is started again by Ray, on whatever machine is free. It finds the
cell's run directory, which therefore lies on a path that all machines share, with the run id that
idempotency keys are derived from: what was bought is replayed free. Locks of run directories are
POSIX locks; the shared file system has to honour them, as NFS 4 does.

Ray is an extra and is imported when it is asked for.
"""

import os
from collections.abc import Generator, Sequence
from typing import Any

from craft_tuner.bench.worker import TICK_S, DoJob, Job, JobResult, do
from craft_tuner.errors import ServerUnreachable, UsageError

MAX_RETRIES = 3
"""How often a cell may lose its worker."""


class RayEngine:
    """Cells on Ray.

    Args:
        jobs: cells at a time on a Ray that is started here; a cluster has its own CPUs.
        address: of a cluster, `auto` for the one of this machine; None starts one here, unless
            RAY_ADDRESS names one.
        work: what is done with a job.
    """

    def __init__(self, jobs: int, address: str | None = None, *, work: DoJob = do) -> None:
        self._jobs = jobs
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._work = work

    def run(self, jobs: Sequence[Job]) -> Generator[JobResult | None, None, None]:
        """See `Engine.run`."""
        ray = _ray()
        self._connect(ray)
        try:
            yield from self._results(ray, jobs)
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            options |= {"num_cpus": self._jobs, "include_dashboard": False}
        try:
            ray.init(address=self._address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = self._address or "this machine (none could be started)"
            raise ServerUnreachable(f"no Ray at {where}: {error}") from error

    def _results(self, ray: Any, jobs: Sequence[Job]) -> Generator[JobResult | None, None, None]:
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(self._work)
        names = {task.remote(job): job.name for job in jobs}
        try:
            while names:
                ready, _ = ray.wait(list(names), timeout=TICK_S)
                if not ready:
                    yield None
                for reference in ready:
                    yield _result(ray, reference, names.pop(reference))
        finally:
            for reference in names:
                ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any, name: str) -> JobResult:
    try:
        result: JobResult = ray.get(reference)
    except ray.exceptions.RayError as error:
        sentence = str(error).strip().splitlines()[0]
        return JobResult(name, f"Ray lost it {MAX_RETRIES + 1} times or failed: {sentence}")
    return result


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "--engine ray needs Ray; install it with `pip install 'craft-blackbox[tuner,ray]'`"
        ) from error
    return ray
