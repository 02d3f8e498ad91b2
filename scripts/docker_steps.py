"""What a stack is put through, one step each; docker_test.py says in which order.

Each step raises SystemExit, with what was wrong, if a promise of docs/docker.md does not hold.
"""

import json
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.docker_engine import LOCAL, run, works
from scripts.docker_stack import BUDGET, FIT, PORTS, ROOT, Key, Stack

PROGRAMS = Path(sys.executable).parent
CAMPAIGN = "benchmarks.reliability.faults_compose"
PATIENCE_S = 180.0
CAMPAIGN_S = 180.0
"""No round begins later."""


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
    check(works(*inside, "touch", "/tmp/made"), "the server's /tmp cannot be written")
    key = stack.mint("server")
    result = stack.fit("composed", key, "http://server:8000")
    balance(stack, "server", key, result, "tuner's container")
    return result


def from_host(stack: Stack) -> list[dict[str, Any]]:
    """The same fit by the host's tuner against the container, and by the demo without Docker."""
    with tempfile.TemporaryDirectory() as folder:
        composed, demo = Path(folder) / "composed", Path(folder) / "demo"
        url = f"http://127.0.0.1:{PORTS['CRAFT_PORT']}"
        key = stack.mint("server")
        where = {"CRAFT_API_KEY": key.token, "CRAFT_SERVER_URL": url}
        run(PROGRAMS / "craft-tuner", *FIT, "--run", composed, env=os.environ | where)
        run(PROGRAMS / "craft-tuner", "demo", "--seed", "1", "--out", demo)
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
    killer = threading.Thread(target=_crash, args=(stack, victim, key, crashed), daemon=True)
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


def disturbed(stack: Stack, rounds: int) -> None:
    """The fault campaign through nginx, on both replicas and Postgres."""
    overlay = json.loads(run(sys.executable, "-m", CAMPAIGN, "--overlay", cwd=ROOT))["services"]
    stack("rm", "-sf", "scale", *overlay)  # nginx asks for the replicas' addresses when it starts
    stack.lay_over(overlay)
    stack("up", "-d", "--no-build", "scale")
    until("both replicas are healthy", lambda: stack.healthy("replica") == 2)
    where = ("--project", LOCAL, "--port", PORTS["CRAFT_SCALE_PORT"])
    how = ("--database", stack.database_url, "--rounds", rounds, "--seconds", CAMPAIGN_S)
    run(sys.executable, "-m", CAMPAIGN, *where, *map(str, how), quiet=False, cwd=ROOT)
    say("nothing found by the fault campaign")


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
        raise SystemExit(otherwise)


def say(sentence: str) -> None:
    """A line of the log."""
    print(f"docker-test: {sentence}", flush=True)
