"""Section: does memory grow? A minute of purchases of ever new shapes, extrapolated to an hour.

The server's resident memory, and what all processes hold of the card, are read four times a second.
Growth is the least-squares slope over the second half, where caches are warm. The slope of a minute
has a large error: `spread` is the widest distance from the line, in MB; a growth per hour below 60
times that says nothing.
"""

import time
from collections.abc import Sequence
from threading import Event, Thread
from typing import NamedTuple

import numpy as np

from benchmarks.common.class_names import names_of
from benchmarks.common.machine import resident_mb, slope
from benchmarks.common.servers import Server, Wire, noise_png, question
from benchmarks.gpu.device import used_mb
from benchmarks.gpu.runner import Row, Say, Scene, Section
from benchmarks.gpu.served import serving_on
from benchmarks.speed.tuners import card
from craft_shared.messages import LogitsRequest, SoftPrompts

SECONDS, SECONDS_SMALL = 60.0, 4.0
EVERY_S = 0.25
IMAGES = 16
COLUMNS = {
    "memory": "memory",
    "seconds": "s|.0f",
    "purchases": "purchases",
    "first_mb": "at the start, MB|.0f",
    "last_mb": "at the end, MB|.0f",
    "mb_per_hour": "second half, MB/h|+.0f",
    "spread": "spread, MB|.1f",
}


class Sample(NamedTuple):
    """Memory at one moment; of the card None where there is none."""

    seconds: float
    host_mb: float
    device_mb: float | None


class Watch:
    """Reads memory on a thread of its own until it is stopped."""

    def __init__(self, server: Server, scene: Scene) -> None:
        self.samples: list[Sample] = []
        self._server, self._device = server, scene.torch_device
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(EVERY_S):
            now = time.monotonic() - began
            host = resident_mb(self._server.pid)
            self.samples.append(Sample(now, host, used_mb(self._device)))

    def stop(self) -> list[Sample]:
        """What was read."""
        self._stop.set()
        self._thread.join()
        return self.samples


def buy(server: Server, seconds: float) -> int:
    """Purchases of random shapes for so long; how many."""
    key, draw = server.mint(), np.random.default_rng(0)
    wire = Wire(server.port, key)
    about = card(server.port, key)
    images = wire.image_set([noise_png(seed) for seed in range(IMAGES)])
    names, until, count = names_of("sun397"), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        chosen = draw.choice(names, size=int(draw.integers(2, 48)), replace=False)
        offsets = 0.1 * draw.standard_normal(
            (int(draw.integers(1, 41)), 4, about["context_width"]), np.float32
        )
        request = LogitsRequest(
            model=about["id"],
            image_set=images,
            class_names=[str(name) for name in chosen],
            prompts=SoftPrompts(context="a photo of a"),
        )
        wire.read(**question(request, offsets, name=f"leak {count}"))
        count += 1
    return count


def growth(seconds: Sequence[float], memory: Sequence[float]) -> Row:
    """First, last, slope per hour of the second half, and how far samples lie from that line."""
    half = len(seconds) // 2
    x, y = np.array(seconds[half:]), np.array(memory[half:])
    per_s = slope(x.tolist(), y.tolist())
    spread = float(np.abs(y - y.mean() - per_s * (x - x.mean())).max())
    ends = {"first_mb": memory[0], "last_mb": memory[-1]}
    return {**ends, "mb_per_hour": 3600 * per_s, "spread": spread}


def run(scene: Scene, say: Say) -> None:
    """Buy, watch, and say a row for the process and one for the card."""
    seconds = SECONDS_SMALL if scene.small else SECONDS
    with serving_on(scene, model="embedded") as server:
        watch = Watch(server, scene)
        count = buy(server, seconds)
        samples = watch.stop()
    times = [sample.seconds for sample in samples]
    both = {"purchases": count, "seconds": seconds}
    say({"memory": "of the server", **both, **growth(times, [s.host_mb for s in samples])})
    held = [sample.device_mb for sample in samples if sample.device_mb is not None]
    if held:
        say({"memory": "of the card", **both, **growth(times[-len(held) :], held)})


SECTION = Section("leaks", "Growth of memory", run, COLUMNS, least_s=30, most_s=85)
