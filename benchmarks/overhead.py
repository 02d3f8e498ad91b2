"""What the server costs beside the model: a stub black box behind the real program and meter.

    python benchmarks/overhead.py [--seconds 5]

Prints requests per second and the median time of small requests, from 1 client and from 8, against
the time of a request that touches neither meter nor queue. Both sides are measured in one run.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

PROGRAM = Path(sys.executable).parent / "craft-server"


def start(folder: str, port: int) -> subprocess.Popen[bytes]:
    """Start a stub server and wait until it is ready."""
    settings = {"DATA_DIR": folder, "PORT": str(port), "MODEL": "stub"}
    env = os.environ | {f"CRAFT_SERVER_{name}": value for name, value in settings.items()}
    with (Path(folder) / "server.log").open("wb") as log:
        server = subprocess.Popen([PROGRAM, "serve"], env=env, stdout=log, stderr=log)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return server
    raise SystemExit("the server did not become ready")


def mint(folder: str) -> str:
    """A key with a budget that no benchmark exhausts."""
    command = ["keys", "create", "--owner", "bench", "--queries", str(10**9), "--json"]
    made = subprocess.run(
        [PROGRAM, *command, "--data-dir", folder], capture_output=True, text=True, check=True
    )
    return str(json.loads(made.stdout)["key"])


def image_set(client: httpx.Client) -> str:
    """One image, made here."""
    from io import BytesIO  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    buffer = BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "PNG")
    uploaded = client.post("/v1/images", files={"files": ("a.png", buffer.getvalue())}).json()
    made = client.post("/v1/image-sets", json={"images": [uploaded["images"][0]["id"]]})
    return str(made.json()["id"])


def ask(url: str, key: str, body: dict[str, Any], seconds: float) -> list[float]:
    """Buy one query after the other; returns seconds per request."""
    times: list[float] = []
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            name = f"{os.getpid()}/{len(times)}"
            client.post(
                "/v1/logits", json=body, headers={"Idempotency-Key": name}
            ).raise_for_status()
            times.append(time.perf_counter() - began)
    return times


def bare(url: str, seconds: float) -> list[float]:
    """The same client against a route without key, meter or queue."""
    times: list[float] = []
    with httpx.Client(base_url=url, timeout=30) as client:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            client.get("/livez").raise_for_status()
            times.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--port", type=int, default=18123)
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    with tempfile.TemporaryDirectory() as folder:
        server = start(folder, options.port)
        try:
            key = mint(folder)
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
                body = {
                    "model": "stub::0",
                    "image_set": image_set(client),
                    "class_names": ["cat", "dog"],
                    "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
                }
            floor = bare(url, options.seconds)
            one = ask(url, key, body, options.seconds)
            with multiprocessing.Pool(8) as pool:
                eight = pool.starmap(ask, [(url, key, body, options.seconds)] * 8)
            audit = subprocess.run(
                [PROGRAM, "usage", "--data-dir", folder], capture_output=True, text=True, check=True
            )
        finally:
            server.terminate()
            server.wait()
    print(
        f"machine           {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}"
    )
    print(f"bare route        {1000 * statistics.median(floor):.2f} ms median")
    print(
        f"one query         {1000 * statistics.median(one):.2f} ms median, 1 client, "
        f"{statistics.median(one) / statistics.median(floor):.1f} x the bare route"
    )
    print(f"8 clients         {sum(map(len, eight)) / options.seconds:.0f} queries/s together")
    print(f"books             {audit.stdout.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
