"""A client that may be killed at any moment: it buys what its plan says, each until it is answered.

    python -m benchmarks.reliability.fault_client PLAN JOURNAL

Needs the standard library alone, so that it starts at once. PLAN is JSON: the servers' ports, a key
and purchases. JOURNAL gets one line for every answer and for every attempt that had none, handed to
the operating system at once, so that it outlives a SIGKILL; started again with the same arguments
the client goes on with what the journal does not show as ended. A retry is the same bytes with the
same Idempotency-Key. It waits less than Retry-After asks for: the server must bear that too.
"""

import base64
import hashlib
import json
import os
import random
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

TENSORS = "application/x-safetensors"
HOST = "127.0.0.1"
TIMEOUT_S = 60.0
PATIENCE_S = 150.0
RETRYABLE = {409, 429, 500, 502, 503, 504}
"""500 and 502 are not in the protocol: they are counted as faults, and asked again all the same."""

ENDED = "ended"


class Answer(NamedTuple):
    """What came of one attempt; `status` 0 is none."""

    status: int
    code: str = ""
    """The problem's code, or the kind of error that left the attempt without an answer; none is
    the page of a gateway."""
    charged: int = 0
    replayed: bool = False
    digest: str = ""


def ask(connection: HTTPConnection, key: str, purchase: dict[str, Any]) -> Answer:
    """Send a purchase once and read what the server says."""
    headers = {
        "Authorization": f"Bearer {key}",
        "Idempotency-Key": purchase["name"],
        "Content-Type": purchase["type"],
        "Accept": purchase["type"],
    }
    try:
        connection.request("POST", "/v1/logits", base64.b64decode(purchase["body"]), headers)
        reply = connection.getresponse()
        content = reply.read()
        return read(reply.status, dict(reply.getheaders()), content)
    except (OSError, HTTPException, ValueError, KeyError) as error:
        connection.close()
        return Answer(0, type(error).__name__)


def read(status: int, headers: dict[str, str], content: bytes) -> Answer:
    """A reply as an answer; its digest is that of the logits alone, which a replay must repeat.

    Raises:
        ValueError, KeyError: it says 200 and is no reply of this protocol, or it was cut off.
    """
    if status != 200:
        return Answer(status, _code(content))
    named = {name.lower(): value for name, value in headers.items()}
    if named["content-type"] == TENSORS:
        logits = content[8 + int.from_bytes(content[:8], "little") :]
    else:
        logits = json.dumps(json.loads(content)["logits"]).encode()
    return Answer(
        200,
        charged=int(named["x-query-cost"]),
        replayed=named.get("idempotent-replayed") == "true",
        digest=hashlib.sha256(logits).hexdigest(),
    )


def _code(content: bytes) -> str:
    if not content:
        raise ValueError("cut off amid its headers")
    try:
        return str(json.loads(content)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def buy(plan: dict[str, Any], purchase: dict[str, Any], journal: int) -> None:
    """Ask until the answer is final, at the next server after every one that gave none."""
    end = time.monotonic() + PATIENCE_S
    port = plan["first"]
    connection = HTTPConnection(HOST, plan["ports"][port], timeout=TIMEOUT_S)
    while time.monotonic() < end:
        answer = ask(connection, plan["key"], purchase)
        final = answer.status not in RETRYABLE | {0}
        line = answer._asdict() | {"name": purchase["name"], ENDED: final}
        os.write(journal, json.dumps(line).encode() + b"\n")
        if final:
            break
        if answer.status in {0, 503}:
            connection.close()
            port = (port + 1) % len(plan["ports"])
            connection = HTTPConnection(HOST, plan["ports"][port], timeout=TIMEOUT_S)
        time.sleep(random.uniform(0.02, 0.12))
    connection.close()


def lines_of(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a kill may have cut the last one."""
    if not journal.exists():
        return []
    whole = journal.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in whole if line.endswith(b"}") and line.startswith(b"{")]


def main(plan_file: str, journal_file: str) -> None:
    """Buy what is left of the plan."""
    plan = json.loads(Path(plan_file).read_bytes())
    ended = {line["name"] for line in lines_of(Path(journal_file)) if line[ENDED]}
    journal = os.open(journal_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for purchase in plan["purchases"]:
        if purchase["name"] not in ended:
            buy(plan, purchase, journal)


if __name__ == "__main__":
    main(*sys.argv[1:])
