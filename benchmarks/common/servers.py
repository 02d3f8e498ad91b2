"""A real craft-server per benchmark: started on a free port, keys minted, images uploaded, stopped.

Knows the programs' command lines and the protocol, nothing of the server's code.
"""

import io
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import programs
from benchmarks.common.programs import SERVER
from craft_shared import wire
from craft_shared.messages import LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import FloatArray

HOST = "127.0.0.1"
PLENTY = 10**9
"""Queries of a key that no benchmark exhausts."""

READY_S = 180.0
_BOUNDARY = "craft-benchmark-boundary"
MULTIPART = f"multipart/form-data; boundary={_BOUNDARY}"
"""Content-Type of what `multipart` makes."""


class Server:
    """A running server process and its folder."""

    def __init__(
        self,
        folder: Path,
        port: int,
        process: "subprocess.Popen[bytes]",
        environment: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.port = port
        self.process = process
        self._environment = environment

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def command(self, *arguments: str) -> str:
        """What `craft-server ARGUMENTS` prints on the same data.

        Raises:
            CalledProcessError: it failed, as `usage` does if the ledger does not balance.
        """
        done = subprocess.run(
            [SERVER, *arguments],
            env=self._environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout

    def mint(
        self,
        queries: int = PLENTY,
        owner: str = "bench",
        *,
        policy: Mapping[str, object] | None = None,
    ) -> str:
        """A new key; `policy` says what else it may do, as `keys create --policy` takes it."""
        flags = ["--owner", owner, "--queries", str(queries), "--json"]
        flags += ["--policy", json.dumps(policy)] if policy else []
        return str(json.loads(self.command("keys", "create", *flags))["key"])

    def totals(self) -> list[dict[str, Any]]:
        """What the server's own audit says of each key; it must balance."""
        found: list[dict[str, Any]] = json.loads(self.command("usage", "--export", "json"))["usage"]
        return found


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Server]:
    """A server with `CRAFT_SERVER_<NAME>` settings, ready, and stopped at the end."""
    with running((SERVER, "serve"), folder, **settings) as server:
        yield server


@contextmanager
def running(program: Sequence[str | Path], folder: Path, /, **settings: object) -> Iterator[Server]:
    """The same with another program that serves."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    values = {"data_dir": folder, "host": HOST, "port": port} | settings
    inherited = programs.environment().items()
    environment = {k: v for k, v in inherited if not k.startswith("CRAFT_SERVER_")}
    environment |= {f"CRAFT_SERVER_{name.upper()}": str(value) for name, value in values.items()}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(program, env=environment, stdout=log, stderr=log)
    server = Server(folder, port, process, environment)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait()


class Wire:
    """One keep-alive connection with a key: as cheap as a client can be in Python."""

    def __init__(self, port: int, key: str = "", *, timeout_s: float = 600.0) -> None:
        self._http = HTTPConnection(HOST, port, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> HTTPResponse:
        """Send a request; the caller reads the reply to its end.

        Header names are given with underscores: `Content_Type="application/json"`.
        """
        self.begin(method, path, body, **headers)
        return self._http.getresponse()

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        """Send a request without waiting for its reply."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.request(method, path, body, self._headers | named)

    def read(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """The body of a successful reply.

        Raises:
            ConnectionError: the server refused.
        """
        reply = self.send(method, path, body, **headers)
        content = reply.read()
        if reply.status >= 400:
            raise ConnectionError(f"{method} {path}: {reply.status} {content[:300]!r}")
        return content

    def image_set(self, files: Sequence[bytes]) -> str:
        """Upload image files; the id of the set of them in order."""
        content = self.read("POST", "/v1/images", multipart(files), Content_Type=MULTIPART)
        ids = [image["id"] for image in json.loads(content)["images"]]
        body = json.dumps({"images": ids}).encode()
        made = self.read("POST", "/v1/image-sets", body, Content_Type="application/json")
        return str(json.loads(made)["id"])

    def hang_up(self) -> None:
        """Close the connection; the next request opens another."""
        self._http.close()


def question(request: LogitsRequest, offsets: FloatArray, *, name: str) -> dict[str, Any]:
    """A request for the logits of soft prompts, in tensors: arguments of `Wire.read` and `send`."""
    return {
        "method": "POST",
        "path": "/v1/logits",
        "body": wire.encode_request(request, offsets),
        "Content_Type": TENSOR_MEDIA_TYPE,
        "Accept": TENSOR_MEDIA_TYPE,
        "Idempotency_Key": name,
    }


def multipart(files: Sequence[bytes]) -> bytes:
    """Image files as a multipart body of Content-Type `MULTIPART`."""
    parts = []
    for number, data in enumerate(files):
        head = f'Content-Disposition: form-data; name="files"; filename="{number}.png"'
        parts.append(f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])


def noise_png(seed: int, side: int = 32) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            Wire(server.port).read("GET", "/readyz")
        except OSError:
            time.sleep(0.1)
        else:
            return
    log = (server.folder / "server.log").read_text(errors="replace")[-2000:]
    raise SystemExit(f"the server did not become ready; the end of its log:\n{log}")
