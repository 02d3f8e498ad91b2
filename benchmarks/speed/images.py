"""Images through the real program: uploaded, encoded, and after a restart not encoded again.

    python -m benchmarks images [--images 10000] [--json FILE]

Starts `craft-server serve --model embedded`, uploads small PNGs of noise as craft-tuner does, asks
one prompt about all of them, and asks again after a restart, with the image files moved away: an
answer then shows that no image was encoded. Memory is the server's peak, VmHWM of /proc.
"""

import argparse
import io
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.common.programs import SERVER
from craft_shared.messages import CardLimits
from craft_tuner.client.transport import Transport
from craft_tuner.client.uploads import upload
from craft_tuner.config.connection import Connection

FIRST = 1000
"""Images before memory is read for the first time."""


@dataclass(frozen=True)
class Noise:
    """A picture that is made when it is read: 32 x 32 pixels of noise as PNG."""

    seed: int

    @property
    def name(self) -> str:
        """What it is called."""
        return f"noise {self.seed}"

    def read(self) -> bytes:
        """The file's bytes."""
        buffer = io.BytesIO()
        pixels = np.random.default_rng(self.seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@contextmanager
def serving(folder: str, port: int) -> Iterator[int]:
    """A server on the embedded model; gives its process id."""
    settings = {"DATA_DIR": folder, "PORT": str(port), "MODEL": "embedded"}
    env = os.environ | {f"CRAFT_SERVER_{name}": value for name, value in settings.items()}
    with (Path(folder) / "server.log").open("ab") as log:
        server = subprocess.Popen([SERVER, "serve"], env=env, stdout=log, stderr=log)
    try:
        wait_until_ready(port)
        yield server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def wait_until_ready(port: int) -> None:
    """Ask until the server says that it is ready."""
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server did not become ready")


def mint(folder: str) -> str:
    """A key for a few queries."""
    command = ["keys", "create", "--owner", "bench", "--queries", "10", "--json"]
    made = subprocess.run(
        [SERVER, *command, "--data-dir", folder], capture_output=True, text=True, check=True
    )
    return str(json.loads(made.stdout)["key"])


def peak_mb(process: int) -> float:
    """The most memory the process ever had, MB."""
    status = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def send(connection: Connection, images: range) -> float:
    """Upload pictures; returns seconds."""
    with Transport(connection) as transport:
        limits = card_limits(connection)
        began = time.perf_counter()
        upload(transport, [Noise(seed) for seed in images], limits=limits, set_size=10**5, name="")
        return time.perf_counter() - began


def card_limits(connection: Connection) -> CardLimits:
    """The server's limits."""
    with client(connection) as http:
        return CardLimits.model_validate(http.get("/v1/models").json()["models"][0]["limits"])


def ask(connection: Connection, image_set: str, name: str) -> float:
    """Buy one query on the set; returns seconds."""
    body = {
        "model": "embedded::1",
        "image_set": image_set,
        "class_names": ["three", "seven"],
        "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
    }
    with client(connection) as http:
        began = time.perf_counter()
        http.post("/v1/logits", json=body, headers={"Idempotency-Key": name}).raise_for_status()
        return time.perf_counter() - began


def client(connection: Connection) -> httpx.Client:
    """A client that waits as long as it takes."""
    headers = {"Authorization": f"Bearer {connection.key}"}
    return httpx.Client(base_url=connection.url, headers=headers, timeout=3600)


def measure(folder: str, port: int, images: int) -> dict[str, Any]:
    """The whole run."""
    connection = Connection(f"http://127.0.0.1:{port}", mint(folder))
    first = min(FIRST, images)
    with serving(folder, port) as process:
        at_start = peak_mb(process)
        upload_s = send(connection, range(first))
        after_first = peak_mb(process)
        upload_s += send(connection, range(first, images))
        after_all = peak_mb(process)
        with Transport(connection) as transport:
            pictures = [Noise(seed) for seed in range(images)]
            sets = upload(
                transport, pictures, limits=card_limits(connection), set_size=images, name=""
            )
        [image_set] = sets.images.sets
        encode_s = ask(connection, image_set, "first")
        warm_s = ask(connection, image_set, "second")
        after_encoding = peak_mb(process)
    (Path(folder) / "images").rename(Path(folder) / "away")
    with serving(folder, port):
        restarted_s = ask(connection, image_set, "third")
    return {
        "images": images,
        "uploaded_images_per_s": images / upload_s,
        "encoded_images_per_s": images / (encode_s - warm_s),
        "warm_request_s": warm_s,
        "after_restart_s": restarted_s,
        "after_restart_encoded": 0,
        "peak_mb": {
            "at_start": at_start,
            f"after_{first}_uploads": after_first,
            f"after_{images}_uploads": after_all,
            "after_encoding": after_encoding,
        },
        "features_db_mb": (Path(folder) / "features.db").stat().st_size / 2**20,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--port", type=int, default=18124)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(folder, options.port, options.images)
    print(
        f"machine           {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {version('torch')}"
    )
    print(f"upload            {row['uploaded_images_per_s']:.0f} images/s")
    print(f"encoding          {row['encoded_images_per_s']:.0f} images/s")
    print(f"one query, warm   {row['warm_request_s']:.2f} s on {row['images']} images")
    print(f"after a restart   {row['after_restart_s']:.2f} s, 0 images encoded")
    for moment, size in row["peak_mb"].items():
        print(f"peak memory       {size:.0f} MB {moment.replace('_', ' ')}")
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
