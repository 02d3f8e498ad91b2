"""Servers for tests: an application in this process, or the real program on a real socket."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from craft_server.app import card_limits
from craft_server.db.store import Store
from craft_server.engine.blackbox import Piece
from craft_server.models.stub import StubBlackBox
from craft_server.settings import Settings
from craft_shared import wire
from craft_shared.messages import LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE

SCRIPTS = Path(sys.executable).parent


def settings_in(folder: Path, **fields: Any) -> Settings:
    """Settings of a stub server that keeps everything in `folder`."""
    return Settings(**({"data_dir": folder, "model": "stub"} | fields))


def stub_box(settings: Settings) -> StubBlackBox:
    return StubBlackBox(card_limits(settings))


def features_of(box: Any, images: Iterable[Image.Image]) -> Any:
    """Features of a black box, without caches or threads."""
    return box.load_features(box.encode_images([box.preprocess(image) for image in images]))


def score(box: Any, request: LogitsRequest, features: Any, offsets: Any = None) -> np.ndarray:
    """Logits (P, N, K) of a black box, piece by piece, without a server."""
    prompts, everything = box.prepare(request, offsets), slice(0, None)
    found = []
    for run in prompts.pieces:
        (texts,) = box.encode_texts([Piece(prompts, run)])
        found.append(box.logits(texts, features, prompts=everything, images=everything)())
    return np.concatenate(found)


def png(seed: int, size: tuple[int, int] = (16, 12)) -> bytes:
    """A small PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return as_bytes(Image.fromarray(pixels), "PNG")


def as_bytes(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def upload(client: httpx.Client, files: list[bytes], **headers: str) -> list[str]:
    """Upload image files and return their ids."""
    parts = [("files", (f"{index}.png", data)) for index, data in enumerate(files)]
    reply = client.post("/v1/images", files=parts, headers=headers)
    reply.raise_for_status()
    return [image["id"] for image in reply.json()["images"]]


def image_set(client: httpx.Client, count: int = 3, **headers: str) -> str:
    """Upload `count` images of noise and return the id of their set."""
    ids = upload(client, [png(seed) for seed in range(count)], **headers)
    reply = client.post("/v1/image-sets", json={"images": ids}, headers=headers)
    reply.raise_for_status()
    return reply.json()["id"]


def text_request(set_id: str, *, prompts: int = 2, model: str = "stub::0") -> dict[str, Any]:
    """A JSON request of `prompts` text prompts, two classes."""
    templates = [f"photo {index} of a {{}}." for index in range(prompts)]
    return {
        "model": model,
        "image_set": set_id,
        "class_names": ["cat", "dog"],
        "prompts": {"kind": "text", "templates": templates},
    }


def words_of(request: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The request to /v1/texts/check about the texts of a JSON request for logits."""
    return {name: request[name] for name in ("model", "class_names", "prompts")} | fields


def soft_body(set_id: str, offsets: np.ndarray, **fields: Any) -> bytes:
    """A tensor body of soft prompts for the stub."""
    request = {
        "model": "stub::0",
        "image_set": set_id,
        "class_names": ["cat", "dog"],
        "prompts": {"kind": "soft", "context": "a photo of a"},
        **fields,
    }
    return wire.encode_request(LogitsRequest.model_validate(request), offsets)


def tensor_headers(idempotency_key: str, **headers: str) -> dict[str, str]:
    return {
        "Content-Type": TENSOR_MEDIA_TYPE,
        "Accept": TENSOR_MEDIA_TYPE,
        "Idempotency-Key": idempotency_key,
        **headers,
    }


class ServerProcess:
    """`craft-server serve` as users run it: own process, real socket, settings by environment."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        values = {"data_dir": folder, "port": self.port, "model": "stub"} | settings
        self.env = os.environ | {
            f"CRAFT_SERVER_{name.upper()}": str(value) for name, value in values.items()
        }
        self._log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready_s: float = 60.0) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [SCRIPTS / "craft-server", "serve"], env=self.env, stdout=log, stderr=log
            )
        end = time.monotonic() + ready_s
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server did not become ready:\n{self.log()}")

    def kill(self) -> None:
        """SIGKILL: what a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM: what an operator does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def log(self) -> str:
        return self._log.read_text()

    def command(self, *arguments: str) -> str:
        """Run `craft-server ARGUMENTS` on the same data and return what it prints."""
        done = subprocess.run(
            [SCRIPTS / "craft-server", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def mint(self, queries: int, *more: str) -> str:
        """A key with this budget."""
        created = self.command(
            "keys", "create", "--owner", "test", "--queries", str(queries), "--json", *more
        )
        return json.loads(created)["key"]

    def client(self, key: str, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder / 'craft.db'}")


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A started server that is gone at the end of the block."""
    server = ServerProcess(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


@contextlib.contextmanager
def in_thread(app: Any, **config: Any) -> Iterator[int]:
    """An application on a real socket of this process; gives its port."""
    values = {"port": 0, "ws": "none", "log_level": "error"} | config
    server = uvicorn.Server(uvicorn.Config(app, **values))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
