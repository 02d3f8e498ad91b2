"""One tuner against several at once on one server: prompts per second together, and fairness.

    python -m benchmarks tuners [--tuners 8] [--seconds 120] [--dataset dtd] [--json FILE]

RN50 with random weights behind a real craft-server; every tuner is a process with a key of its own
that sends one request of P soft prompts after the other. Each side asks for a fixed time and then
finishes what is under way; rates are prompts over the time to the last reply.
"""

import itertools
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common.class_names import names_of
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.random_checkpoint import random_checkpoint
from benchmarks.common.servers import Server, Wire, noise_png, question, serving
from craft_shared.messages import LogitsRequest, SoftPrompts

IMAGES = 8
START_S = 1.0
COLUMNS = {
    "tuners": "tuners",
    "requests": "requests",
    "prompts_per_s": "prompts/s together|.2f",
    "seconds_per_request": "seconds per request, mean|.2f",
    "slowest_over_fastest": "slowest / fastest tuner|.3f",
}


class Job(NamedTuple):
    """What one tuner does."""

    port: int
    key: str
    model: str
    image_set: str
    names: list[str]
    prompts: int
    start: float
    """On the monotonic clock, which all processes share."""
    seconds: float


def tune(job: Job) -> list[float]:
    """Ask until the time is over; when each reply was complete, in seconds after the start."""
    connection = Wire(job.port, job.key)
    done: list[float] = []
    draw = np.random.default_rng()
    width = card(job.port, job.key)["context_width"]
    request = LogitsRequest(
        model=job.model,
        image_set=job.image_set,
        class_names=job.names,
        prompts=SoftPrompts(context="a photo of a"),
    )
    time.sleep(max(0.0, job.start - time.monotonic()))
    for number in itertools.count():
        if done and done[-1] > job.seconds:
            return done
        offsets = 0.1 * draw.standard_normal((job.prompts, 4, width), np.float32)
        connection.read(**question(request, offsets, name=f"{job.start}-{number}"))
        done.append(time.monotonic() - job.start)
    raise AssertionError("unreachable")


def card(port: int, key: str) -> Row:
    """The card of the server's model."""
    found: Row = json.loads(Wire(port, key).read("GET", "/v1/models"))["models"][0]
    return found


def side(jobs: list[Job]) -> Row:
    """Run tuners at once."""
    start = time.monotonic() + START_S
    ready = [job._replace(start=start) for job in jobs]
    with multiprocessing.get_context("fork").Pool(len(jobs)) as pool:
        replies = pool.map(tune, ready, chunksize=1)
    each = [times[-1] / len(times) for times in replies]
    requests = sum(map(len, replies))
    return {
        "tuners": len(jobs),
        "requests": requests,
        "prompts_per_s": requests * jobs[0].prompts / max(times[-1] for times in replies),
        "seconds_per_request": sum(each) / len(each),
        "slowest_over_fastest": max(each) / min(each),
        "requests_per_tuner": [len(times) for times in replies],
    }


def compare(
    server: Server, tuners: int, names: list[str], prompts: int, seconds: float
) -> list[Row]:
    """One tuner, then all of them, on a running server."""
    keys = [server.mint() for _ in range(tuners)]
    images = Wire(server.port, keys[0]).image_set([noise_png(i) for i in range(IMAGES)])
    model = str(card(server.port, keys[0])["id"])
    jobs = [Job(server.port, key, model, images, names, prompts, 0.0, seconds) for key in keys]
    tune(jobs[0]._replace(start=time.monotonic(), seconds=0.0))  # encodes the images
    return [side(jobs[:1]), side(jobs)]


def main() -> None:
    """Run both sides and print a table in Markdown."""
    options = options_of(__doc__, tuners=8, seconds=120.0, prompts=40, dataset="dtd")
    about, names = describe(), names_of(options.dataset)
    print_heading(f"Tuners at once: {options.dataset}, P = {options.prompts}", about)
    with tempfile.TemporaryDirectory() as folder:
        weights = random_checkpoint(Path(folder))
        with serving(Path(folder) / "server", model="RN50", pretrained=weights) as server:
            rows = compare(server, options.tuners, names, options.prompts, options.seconds)
    share = rows[1]["prompts_per_s"] / rows[0]["prompts_per_s"]
    print_table(rows, COLUMNS)
    print(f"{options.tuners} tuners get {share:.3f} of one tuner's rate together.")
    write_json(options.json, about, rows=rows, share=share, dataset=options.dataset)


if __name__ == "__main__":
    main()
