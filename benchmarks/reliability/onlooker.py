"""Another owner who buys while a server is attacked: what an attack costs those who do no harm.

    python -m benchmarks.reliability.onlooker PLAN JOURNAL

A process of its own, so that an attacker's work in this one never counts as the server's. It buys
one query every `EVERY_S`, whether or not the ones before are answered: a server that stands still
for three seconds makes thirty purchases late, not one. With a port of probes it asks for the
liveness as often. Times count from the moment when a request was due.

Like any client behind a balancer it asks at the next server after one that gave no answer or that
is shutting down. JOURNAL gets a line of JSON for each request that ended. PLAN is JSON: ports,
probe port, key, image set. It ends when its standard input does.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.common import programs

EVERY_S = 0.1
"""Between two purchases, and between two probes."""

MOST_S = 1.0
"""The 99th percentile that an attack may make of a purchase, on two cores."""

PROBE_S = 0.1
"""How long a probe may take."""

_HOST = "127.0.0.1"
_LONGEST_S = 30.0
_TRIES = 20
_AT_ONCE = 128
_ELSEWHERE = {0, 503}
"""No answer, and a server that shuts down or has no room: another one may serve."""


class Request(NamedTuple):
    """One request of the onlooker's; times are those of `time.monotonic`, on this machine."""

    kind: str
    """`buy` or `probe`."""
    due: float
    seconds: float
    status: int
    """Of HTTP; 0 where there was no answer."""
    code: str


class Seen(NamedTuple):
    """What the onlooker met within some time."""

    purchases: int
    failures: int
    p99_s: float
    """0 where there was no purchase."""
    slowest_probe_s: float
    codes: tuple[str, ...]
    """What the failures were."""

    @property
    def good(self) -> bool:
        """Did the attack leave the onlooker alone?"""
        return not self.failures and self.p99_s <= MOST_S


def seen(requests: Sequence[Request]) -> Seen:
    """Requests added up; a probe that was not answered well took for ever."""
    bought = [request for request in requests if request.kind == "buy"]
    failed = [request for request in bought if request.status != 200]
    probes = [
        request.seconds if request.status == 200 else math.inf
        for request in requests
        if request.kind == "probe"
    ]
    codes = sorted({f"{request.status} {request.code}".strip() for request in failed})
    times = sorted(request.seconds for request in bought)
    p99 = times[math.ceil(0.99 * len(times)) - 1] if times else 0.0
    return Seen(len(bought), len(failed), p99, max(probes, default=0.0), tuple(codes))


class Onlooker:
    """Starts the onlooker's process and reads what it met; a context manager.

    Args:
        ports: servers to buy at, the first one first.
        key: with enough queries: ten a second.
        image_set: what to ask about.
        probe_port: where liveness is answered; None asks for none.
    """

    def __init__(
        self, ports: Sequence[int], key: str, image_set: str, *, probe_port: int | None = None
    ) -> None:
        self._plan = {
            "ports": list(ports),
            "key": key,
            "image_set": image_set,
            "probe_port": probe_port,
        }

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="craft-onlooker-")
        plan, self._journal = (Path(self._folder.name) / name for name in ("plan", "journal"))
        plan.write_text(json.dumps(self._plan))
        self._journal.touch()
        self._process = subprocess.Popen(
            programs.module(__name__, plan, self._journal),
            env=programs.environment(),
            stdin=subprocess.PIPE,
        )
        self._wait(lambda: bool(self._requests()))
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._process.communicate(timeout=2 * _LONGEST_S)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def during(
        self, began: float, ended: float, *, without: Sequence[tuple[float, float]] = ()
    ) -> Seen:
        """What was due within a time, waiting until it is answered.

        Args:
            began: on the clock `time.monotonic`.
            ended: the same.
            without: times that do not count, as those without a store: what was waiting then.
        """
        due = math.floor((ended - began) / EVERY_S) - 1
        self._wait(lambda: len(self._within(began, ended, "buy")) >= due)
        return seen(
            [
                request
                for request in self._within(began, ended, "buy", "probe")
                if not any(
                    request.due < until and since < request.due + request.seconds
                    for since, until in without
                )
            ]
        )

    def _within(self, began: float, ended: float, *kinds: str) -> list[Request]:
        return [
            request
            for request in self._requests()
            if request.kind in kinds and began <= request.due < ended
        ]

    def _requests(self) -> list[Request]:
        whole = self._journal.read_text().split("\n")[:-1]
        return [Request(*json.loads(line)) for line in whole]

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 2 * _LONGEST_S
        while not done():
            if time.monotonic() > end or self._process.poll() is not None:
                raise SystemExit("the onlooker does not answer")
            time.sleep(EVERY_S)


# --- the process --------------------------------------------------------------------------------


class _Buyer:
    """Buys and probes on schedule; each thread keeps its connections."""

    def __init__(self, plan: dict[str, Any], journal: int) -> None:
        self._plan = plan
        self._journal = journal
        self._own = threading.local()
        self._body = json.dumps(
            {
                "model": plan["model"],
                "image_set": plan["image_set"],
                "class_names": ["cat", "dog"],
                "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
            }
        )

    def buy(self, number: int, due: float) -> None:
        """Buy one query under a name of its own, where it can be had."""
        status, code = 0, ""
        headers = {
            "Authorization": f"Bearer {self._plan['key']}",
            "Idempotency-Key": f"onlooker-{os.getpid()}-{number}",
            "Content-Type": "application/json",
        }
        for attempt in range(_TRIES):
            ports = self._plan["ports"]
            port = ports[attempt % len(ports)]
            status, code = self._ask(port, "POST", "/v1/logits", self._body, headers)
            if status not in _ELSEWHERE or len(ports) == 1:
                break
            if attempt % len(ports) == len(ports) - 1:
                time.sleep(EVERY_S / 2)
        self._write("buy", due, status, code)

    def probe(self, due: float) -> None:
        """Ask whether the process lives."""
        status, code = self._ask(self._plan["probe_port"], "GET", "/livez", None, {})
        self._write("probe", due, status, code)

    def _ask(
        self, port: int, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> tuple[int, str]:
        """Status and code of the answer; 0 and the kind of error where there is none."""
        kept: dict[int, HTTPConnection] = self._own.__dict__.setdefault("kept", {})
        while True:
            connection = kept.setdefault(port, HTTPConnection(_HOST, port, timeout=_LONGEST_S))
            fresh = connection.sock is None  # one that was kept may be closed for idleness
            try:
                connection.request(method, path, body, headers)
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, HTTPException) as error:
                connection.close()
                if fresh:
                    return 0, type(error).__name__
            else:
                return reply.status, "" if reply.status == 200 else _code(content)

    def _write(self, kind: str, due: float, status: int, code: str) -> None:
        line = json.dumps([kind, due, time.monotonic() - due, status, code])
        os.write(self._journal, line.encode() + b"\n")


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _code(content: bytes) -> str:
    try:
        return str(json.loads(content)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def main(plan_file: str, journal_file: str) -> None:
    """Buy until standard input ends."""
    plan = json.loads(Path(plan_file).read_bytes())
    connection = HTTPConnection(_HOST, plan["ports"][0], timeout=_LONGEST_S)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {plan['key']}"})
    plan["model"] = json.loads(connection.getresponse().read())["models"][0]["id"]
    connection.close()
    buyer = _Buyer(plan, os.open(journal_file, os.O_WRONLY | os.O_APPEND))
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with ThreadPoolExecutor(_AT_ONCE) as pool, ThreadPoolExecutor(_AT_ONCE // 4) as probes:
        due, number = time.monotonic(), 0
        while not ended.wait(max(0.0, due - time.monotonic())):
            pool.submit(buyer.buy, number, due)
            if plan["probe_port"] is not None:
                probes.submit(buyer.probe, due)
            due, number = due + EVERY_S, number + 1


if __name__ == "__main__":
    main(*sys.argv[1:])
