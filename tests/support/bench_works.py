"""What workers of a bench do in tests, by names that a fresh interpreter can import."""

import os
import signal

from craft_tuner.bench.work import Job, Outcome


def obey(job: Job) -> Outcome:
    """Do what the job's name says; every process that did something writes its id to the log."""
    with job.log.open("a") as log:
        print(job.name, os.getpid(), file=log)
    if job.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "leaves":
        os._exit(3)
    if job.name == "waits":
        signal.pause()
    return Outcome(job.name, "no luck" if job.name == "fails" else None, peak_bytes=1)
