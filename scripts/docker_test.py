"""The images and docker-compose.yml, from nothing to exact books, on a real engine.

    python scripts/docker_test.py [--keep] [--programs .venv/bin] [--compose COMMAND]

Installs and starts an engine if none runs (as root on Debian), builds both images, scans them, and
runs what docs/docker.md promises: a server that is ready, a demo fit by the tuner's container and
one from the host, two replicas on Postgres of which one crashes during a fit, Prometheus. Where
an image cannot be pulled a stand-in of Debian's packages takes its place. Says `skipped:` and why
where no engine can start. Removes all that it made, unless told to --keep it.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker_scan
from docker_engine import (
    LOCAL,
    STAND_INS,
    Skipped,
    base_image,
    compose_command,
    engine,
    run,
    stand_ins,
    works,
)
from docker_stack import BUDGET, FIT, PORTS, PROFILES, ROOT, Key, Stack

PATIENCE_S = 300.0
DISK_BYTES = 30e9
"""CUDA wheels are 6 GB an image, and the classic builder keeps a copy of each stage."""


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep images, containers and volumes")
    parser.add_argument("--programs", type=Path, help="folder of a craft-tuner of the host")
    parser.add_argument("--compose", nargs="+", help="the Compose to test")
    options = parser.parse_args()
    try:
        with engine(), tempfile.TemporaryDirectory(prefix="craft-docker-") as folder:
            stack = Stack(options.compose or compose_command(), Path(folder))
            try:
                test(stack, options.programs, options.compose or compose_command())
            except SystemExit as failure:
                say(str(failure))  # what fails in the cleaning would hide it
                raise
            finally:
                if not options.keep:
                    clean(stack)
    except Skipped as reason:
        say(f"skipped: {reason}")


def test(stack: Stack, programs: Path | None, compose: list[str]) -> None:
    """Every promise, one after the other."""
    say(f"engine {run('docker', 'version', '--format', '{{.Server.Version}}')}")
    say(f"Compose {run(*compose, 'version', '--short')}")
    for profile in ("", *PROFILES):
        run(*compose, *(("--profile", profile) if profile else ()), "config", "-q", cwd=ROOT)
    say(f"docker-compose.yml is valid, alone and with {', '.join(PROFILES)}")
    base = build(stack)
    for program in ("server", "tuner"):
        image = f"{LOCAL}/{program}"
        if found := list(docker_scan.faults(image, program, base)):
            raise SystemExit("\n".join([f"the image {image}:", *found[:20]]))
        say(f"{program}: {docker_scan.size(image)}, scanned: uid 10001, no build tools, no secrets")
    results = [single(stack)]
    if programs is not None:
        results += from_host(stack, programs)
    stack("stop", "server")
    results.append(scaled(stack))
    observed(stack)
    accuracies = {result["evaluation"]["adapted"]["accuracy"] for result in results}
    check(len(accuracies) == 1, f"fits of one seed reach different accuracies: {accuracies}")
    say(f"{len(results)} fits of one seed, all {accuracies.pop():.4f} accurate; all books exact")


def build(stack: Stack) -> str:
    """Both images, and stand-ins for what cannot be pulled; the name of the base."""
    began = time.monotonic()
    base = base_image()
    others = stand_ins(base, list(STAND_INS))
    say(f"base {base}; stand-ins for {', '.join(others) or 'nothing'}")
    free = shutil.disk_usage(run("docker", "info", "--format", "{{.DockerRootDir}}")).free
    images = {name: f"{LOCAL}/{name}" for name in ("server", "tuner")}
    if not all(works("docker", "image", "inspect", image) for image in images.values()):
        if free < DISK_BYTES:
            raise Skipped(
                f"{free / 1e9:.0f} GB of disk are free, {DISK_BYTES / 1e9:.0f} are needed"
            )
        _build(base, images)
    services: dict[str, Any] = {name: {"image": image} for name, image in images.items()}
    services["replica"] = {"image": images["server"]}
    in_place = {
        "scale": "nginx:1.28-alpine",
        "postgres": "postgres:17-alpine",
        "prometheus": "prom/prometheus:v3.5.0",
    }
    services |= {name: {"image": others[i]} for name, i in in_place.items() if i in others}
    stack.lay_over(services)
    say(f"images built in {time.monotonic() - began:.0f} s")
    return base


def _build(base: str, images: Mapping[str, str]) -> None:
    """With PyTorch's CPU wheels or, where they cannot be had, with those of the package index."""
    for program, image in images.items():
        where = ("--target", program, "-t", image, "--build-arg", f"BASE={base}", str(ROOT))
        command = ("docker", "build", "-q", "--force-rm", *where)
        if not works(*command):
            say(f"no {program} with CPU wheels; taking those of the package index (6 GB on x86_64)")
            run(*command, "--build-arg", "TORCH_BACKEND=")


def single(stack: Stack) -> dict[str, Any]:
    """`docker compose up`, a key, a fit in a container, the ledger."""
    began = time.monotonic()
    stack("up", "-d", "--no-build", "server")
    until("the server is healthy", lambda: stack.healthy("server") == 1)
    log = stack("logs", "--no-color", "server")
    check("docker compose exec server craft-server keys create" in log, f"no hint in: {log}")
    say(f"docker compose up: ready after {time.monotonic() - began:.0f} s, says how to make a key")
    [container] = stack.containers("server")
    inside = ("docker", "exec", container)
    check(run(*inside, "id", "-u") == "10001", "the server does not run as uid 10001")
    check(not works(*inside, "touch", "/made"), "the server's root can be written")
    check(works(*inside, "touch", "/tmp/made"), "the server's /tmp cannot be written")  # noqa: S108
    key = stack.mint("server")
    result = stack.fit("composed", key, "http://server:8000")
    balance(stack, "server", key, result, "tuner's container")
    return result


def from_host(stack: Stack, programs: Path) -> list[dict[str, Any]]:
    """The same fit by the host's tuner against the container, and by the demo without Docker."""
    with tempfile.TemporaryDirectory() as folder:
        composed, demo = Path(folder) / "composed", Path(folder) / "demo"
        url = f"http://127.0.0.1:{PORTS['CRAFT_PORT']}"
        key = stack.mint("server")
        where = {"CRAFT_API_KEY": key.token, "CRAFT_SERVER_URL": url}
        run(programs / "craft-tuner", *FIT, "--run", composed, env=os.environ | where)
        run(programs / "craft-tuner", "demo", "--seed", "1", "--out", demo)
        files = composed / "result.json", demo / "run" / "result.json"
        results = [json.loads(file.read_text()) for file in files]
    balance(stack, "server", key, results[0], "host's tuner")
    return results


def scaled(stack: Stack) -> dict[str, Any]:
    """Two replicas on Postgres behind nginx; one crashes during a fit and comes back."""
    stack("up", "-d", "--no-build", "scale")
    until("both replicas are healthy", lambda: stack.healthy("replica") == 2)
    key = stack.mint("replica")
    victim = stack.containers("replica")[0]
    crashed: list[int] = []
    killer = threading.Thread(target=_crash, args=(stack, victim, key, crashed))
    killer.start()
    result = stack.fit("scaled", key, "http://scale:8000")
    killer.join()
    check(len(crashed) == 1, "no replica was killed during the fit")
    restarts = run("docker", "inspect", "--format", "{{.RestartCount}}", victim)
    check(restarts == "1", f"the replica that crashed was started again {restarts} times")
    until("both replicas are healthy again", lambda: stack.healthy("replica") == 2)
    total = result["spent_total"]["queries"]
    check(0 < crashed[0] < total, f"{crashed[0]} of {total} queries were sold at the crash")
    say(f"a replica was killed when {crashed[0]} queries were sold, and came back")
    balance(stack, "replica", key, result, "tuner over two replicas")
    return result


def _crash(stack: Stack, container: str, key: Key, sold: list[int]) -> None:
    """Kill a container's processes, as the kernel does where memory runs out, amid a fit."""

    def under_way() -> bool:
        return stack.sold("replica", key) > BUDGET // 4

    until("a quarter of the fit is sold", under_way)
    sold.append(stack.sold("replica", key))
    works("docker", "exec", container, "sh", "-c", "kill -9 -1")


def observed(stack: Stack) -> None:
    """Prometheus finds every server."""
    stack("up", "-d", "--no-build", "prometheus")
    url = f"http://127.0.0.1:{PORTS['CRAFT_PROMETHEUS_PORT']}/api/v1/query?query=craft_build_info"

    def seen() -> bool:
        with urllib.request.urlopen(url) as reply:
            return len(json.load(reply)["data"]["result"]) == 2

    until("Prometheus has the metrics of both replicas", seen)
    say("Prometheus reads both replicas; Grafana: configuration checked only")


def clean(stack: Stack) -> None:
    """Remove containers, volumes and images; says so if some are left, and hides no failure."""
    stack("down", "-v", "--remove-orphans", "-t", "50")
    form = "{{.Repository}}:{{.Tag}}"
    images = run("docker", "images", "--format", form, f"{LOCAL}/*").split()
    stages = ("docker", "image", "prune", "-f", "--filter", "label=craft.stage=build")
    gone = all([not images or works("docker", "rmi", *images), works(*stages)])
    say("removed all that was made" if gone else f"could not remove all of {' '.join(images)}")


# --- what is checked ----------------------------------------------------------------------------


def balance(stack: Stack, service: str, key: Key, result: Mapping[str, Any], who: str) -> None:
    """Ledger, counter and tuner agree on what a fit cost, and nothing is held."""
    books = stack.json(service, "usage", "--export", "json")
    check(books["audit"] == [], f"the audit finds {books['audit']}")
    [row] = [row for row in stack.json(service, "keys", "list", "--json") if row["id"] == key.id]
    ledger, believed = stack.sold(service, key), result["spent_total"]["queries"]
    check(row["queries_held"] == 0, f"{row['queries_held']} queries are still held")
    check(
        ledger == row["queries_used"] == believed,
        f"ledger {ledger}, key {row['queries_used']}, tuner {believed}",
    )
    accuracy = result["evaluation"]["adapted"]["accuracy"]
    say(f"{who}: accuracy {accuracy:.4f}; ledger == key used == tuner's count == {ledger}")


def until(what: str, done: Callable[[], bool]) -> None:
    """Wait for something; a connection that fails counts as not yet."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(1)
    raise SystemExit(f"waited {PATIENCE_S:.0f} s in vain until {what}")


def check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition
    """End the test unless a condition holds."""
    if not holds:
        raise SystemExit(f"failed: {otherwise}")


def say(sentence: str) -> None:
    """A line of the log."""
    print(f"docker-test: {sentence}", flush=True)


if __name__ == "__main__":
    main()
