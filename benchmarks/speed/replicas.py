"""One server against several on one ledger, when each one's device is the bottleneck.

    python -m benchmarks replicas [--replicas 2] [--tuners 4] [--seconds 20] [--json FILE]

The stub, asleep for 50 ms a query as a device that is busy would be, behind real servers on one
Postgres and one folder of images. The same tuners, all with one key, ask one server and then all
of them; at the end the ledger must agree with the counters and with what was delivered.
"""

import importlib
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.servers import Server, Wire, noise_png, question, serving
from craft_shared.messages import LogitsRequest, SoftPrompts

SECONDS_PER_QUERY = 0.05
MODEL = "stub::0"
OFFSETS = (4, 16)
CLASSES = [f"class {number}" for number in range(10)]
IMAGES = 16
START_S = 1.0
COLUMNS = {
    "replicas": "servers",
    "tuners": "tuners",
    "requests": "requests",
    "prompts_per_s": "prompts/s together|.2f",
    "of_the_devices": "of what the devices can|.3f",
}


class Job(NamedTuple):
    """What one tuner does."""

    port: int
    key: str
    image_set: str
    prompts: int
    start: float
    """On the monotonic clock, which all processes share."""
    seconds: float


def tune(job: Job) -> list[float]:
    """Ask until the time is over; when each reply was complete, in seconds after the start."""
    connection, done = Wire(job.port, job.key), list[float]()
    request = LogitsRequest(
        model=MODEL,
        image_set=job.image_set,
        class_names=CLASSES,
        prompts=SoftPrompts(context="a photo of a"),
    )
    draw = np.random.default_rng()
    time.sleep(max(0.0, job.start - time.monotonic()))
    while not done or done[-1] < job.seconds:
        offsets = draw.standard_normal((job.prompts, *OFFSETS), np.float32)
        connection.read(**question(request, offsets, name=f"{os.getpid()}-{time.monotonic_ns()}"))
        done.append(time.monotonic() - job.start)
    return done


def side(servers: list[Server], job: Job, tuners: int) -> Row:
    """The tuners, spread over the servers, at once."""
    start = time.monotonic() + START_S
    jobs = [
        job._replace(port=servers[number % len(servers)].port, start=start)
        for number in range(tuners)
    ]
    with multiprocessing.get_context("fork").Pool(tuners) as pool:
        replies = pool.map(tune, jobs, chunksize=1)
    requests = sum(map(len, replies))
    rate = requests * job.prompts / max(times[-1] for times in replies)
    return {
        "replicas": len(servers),
        "tuners": tuners,
        "requests": requests,
        "prompts_per_s": rate,
        "of_the_devices": rate * SECONDS_PER_QUERY / len(servers),
    }


def main() -> None:
    """Run both sides and print a table in Markdown."""
    options = options_of(__doc__, replicas=2, tuners=4, seconds=20.0, prompts=10)
    about = describe()
    print_heading(f"Replicas on one Postgres, {SECONDS_PER_QUERY * 1000:.0f} ms a query", about)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        shared = {
            "database_url": fresh_postgres(),
            "model": "stub",
            "stub_seconds_per_query": SECONDS_PER_QUERY,
        }
        servers = [
            running.enter_context(serving(Path(folder), replica=f"replica-{number}", **shared))
            for number in range(options.replicas)
        ]
        key = servers[0].mint()
        images = Wire(servers[0].port, key).image_set([noise_png(i) for i in range(IMAGES)])
        job = Job(servers[0].port, key, images, options.prompts, 0.0, options.seconds)
        warm = [
            tune(job._replace(port=server.port, start=time.monotonic(), seconds=0.0))
            for server in servers
        ]  # encodes the images
        rows = [side(servers[:1], job, options.tuners), side(servers, job, options.tuners)]
        [total] = servers[0].totals()
    sold = sum(map(len, warm)) + sum(row["requests"] for row in rows)
    if total["queries"] != sold * options.prompts:
        raise SystemExit(f"{sold * options.prompts} queries delivered, {total['queries']} charged")
    gain = rows[1]["prompts_per_s"] / rows[0]["prompts_per_s"]
    print_table(rows, COLUMNS)
    print(f"{options.replicas} servers give {gain:.3f} times the rate of one; the ledger is exact.")
    write_json(options.json, about, rows=rows, gain=gain, queries=total["queries"])


def fresh_postgres() -> str:
    """The URL of an empty database in the Postgres that the tests use."""
    return str(importlib.import_module("tests.support.databases").fresh_postgres())


if __name__ == "__main__":
    main()
