"""Section: the card runs out of memory under a purchase; what is charged, and is it ready again?

The real application and the embedded model in this process, so that the script can fill the card
beside it. Elsewhere than on a card, the model raises torch's error once, to rehearse the rest.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import uvicorn

from benchmarks.common.class_names import names_of
from benchmarks.common.servers import HOST, Wire, free_port, noise_png, question
from benchmarks.gpu.device import used_mb
from benchmarks.gpu.runner import Say, Scene, Section, SectionError
from craft_server.api.limits import connection_limits
from craft_server.app import card_limits, create_app
from craft_server.models.clip.load import load_clip
from craft_server.settings import Settings
from craft_shared import wire
from craft_shared.messages import LogitsRequest, SoftPrompts

PROMPTS, CLASSES = 400, 300
"""Enough that a pass does not fit into what is left of a filled card."""

READY_S = 30.0
COLUMNS = {"what": "what", "value": "value"}


class Shop:
    """The application on a socket, a key, and one question."""

    def __init__(self, scene: Scene) -> None:
        self.port = free_port()
        values = {"data_dir": scene.folder / "full", "device": scene.device, "model": "embedded"}
        settings = Settings.model_validate(values | {"port": self.port, "host": HOST})
        self.box = load_clip(settings, card_limits(settings))
        app = create_app(settings, self.box)
        self._keys = app.state.services.keys
        limits = connection_limits(settings)
        self.server = uvicorn.Server(
            uvicorn.Config(app, host=HOST, port=self.port, http=limits, ws="none", log_config=None)
        )
        self._size = (20, 10) if scene.small else (PROMPTS, CLASSES)

    def open(self) -> None:
        """Mint a key, upload images, write the question down."""
        self.wire = Wire(self.port, self._keys.create("full", 10**6).token)
        images = self.wire.image_set([noise_png(seed) for seed in range(4)])
        prompts, classes = self._size
        width = self.box.card.context_width
        self._offsets = 0.1 * np.random.default_rng(0).standard_normal(
            (prompts, 4, width), np.float32
        )
        self._request = LogitsRequest(
            model=self.box.card.id,
            image_set=images,
            class_names=names_of("sun397")[:classes],
            prompts=SoftPrompts(context="a photo of a"),
        )

    def ask(self, name: str) -> tuple[int, bytes]:
        """Status and body of one purchase."""
        self.wire.hang_up()  # after a failure the server closes the connection
        reply = self.wire.send(**question(self._request, self._offsets, name=name))
        return reply.status, reply.read()

    def used(self) -> tuple[int, int]:
        """Queries charged and held."""
        self.wire.hang_up()
        queries = json.loads(self.wire.read("GET", "/v1/key"))["budgets"]["queries"]
        return int(queries["used"]), int(queries["held"])

    def ready(self) -> int:
        """Status of the probe."""
        self.wire.hang_up()
        reply = self.wire.send("GET", "/readyz")
        reply.read()
        return reply.status


@contextmanager
def opened(scene: Scene) -> Iterator[Shop]:
    """A shop that serves on a thread."""
    shop = Shop(scene)
    thread = threading.Thread(target=shop.server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not shop.server.started:
        if time.monotonic() > until or not thread.is_alive():
            raise SectionError("the application did not start")
        time.sleep(0.02)
    try:
        shop.open()
        yield shop
    finally:
        shop.server.should_exit = True
        thread.join(20)


def fill(device: torch.device) -> list[torch.Tensor]:
    """Hold all memory of the card, in ever smaller pieces."""
    torch.cuda.empty_cache()
    held, size = [], 2**33
    while size >= 2**20:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            size //= 2
    return held


@contextmanager
def exhausted(shop: Shop, scene: Scene) -> Iterator[None]:
    """A device without memory, for the body of the `with`."""
    if scene.torch_device.type == "cuda":
        held = fill(scene.torch_device)
        try:
            yield
        finally:
            held.clear()
            torch.cuda.empty_cache()
        return
    box: Any = shop.box
    encode = box.encode_texts

    def fail(_: object) -> object:
        raise torch.OutOfMemoryError("rehearsed: there is no card to fill")

    box.encode_texts = fail
    try:
        yield
    finally:
        box.encode_texts = encode


def until_ready(shop: Shop) -> float:
    """Seconds until the probe says ready.

    Raises:
        SectionError: it never did.
    """
    began = time.monotonic()
    while time.monotonic() - began < READY_S:
        if shop.ready() == 200:
            return time.monotonic() - began
        time.sleep(0.1)
    raise SectionError(f"the server was not ready {READY_S:.0f} s after memory was free again")


def same(before: bytes, after: bytes) -> bool:
    """Do two replies hold the same logits?"""
    (_, first), (_, last) = wire.decode_reply(before), wire.decode_reply(after)
    return np.array_equal(first, last)


def run(scene: Scene, say: Say) -> None:
    """Buy, fill, buy, free, buy.

    Raises:
        SectionError: the purchase without memory succeeded or was charged, or the server stayed
            ill or gave other logits afterwards.
    """

    def tell(what: str, value: object) -> None:
        say({"what": what, "value": str(value)})

    with opened(scene) as shop:
        status, before = shop.ask("before")
        if status != 200:
            raise SectionError(f"the first purchase got {status}: {before[:200]!r}")
        charged, memory = shop.used(), used_mb(scene.torch_device)
        with exhausted(shop, scene):
            status, body = shop.ask("without memory")
            tell("a purchase without memory gets", status)
            tell("and the reply says", body[:160].decode(errors="replace"))
            tell("ready meanwhile", shop.ready())
        after_it = shop.used()
        tell("charged for it, and held", [a - b for a, b in zip(after_it, charged, strict=True)])
        tell("ready again after, s", f"{until_ready(shop):.2f}")
        again, after = shop.ask("again")
        tell("the next purchase gets", again)
        unchanged = again == 200 and same(before, after)
        tell("its logits are the same bits as before", "yes" if unchanged else "NO")
        grown = None if memory is None else (used_mb(scene.torch_device) or 0) - memory
        tell("memory of the card beside before, MB", "-" if grown is None else f"{grown:+.0f}")
    if status == 200:
        raise SectionError("the purchase found memory: the card was not full enough")
    if after_it != charged:
        raise SectionError(f"a purchase that failed was charged or is held: {after_it}")
    if again != 200:
        raise SectionError(f"the purchase after it got {again}")
    if not unchanged:
        raise SectionError("the purchase after it got other logits than the one before")


SECTION = Section("memory", "Out of memory, and back", run, COLUMNS, least_s=25, most_s=60)
