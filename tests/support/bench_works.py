"""What workers of a bench do in tests, by names that a fresh interpreter can import."""

import os
import signal

from craft_tuner.bench.worker import Job, JobResult


def obey(job: Job) -> JobResult:
    """Do what the job's name says; every process that did something writes its id to the log."""
    with job.log.open("a") as log:
        print(job.name, os.getpid(), file=log)
    if job.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "leaves":
        os._exit(3)
    if job.name == "waits":
        signal.pause()
    return JobResult(job.name, "no luck" if job.name == "fails" else None, peak_bytes=1)
