"""What the clients of a round are to buy, and their processes: started, killed, started again."""

import base64
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.common.programs import environment, module
from benchmarks.reliability.fault_client import ENDED, TENSORS, Answer, lines_of
from craft_shared import wire
from craft_shared.messages import LogitsRequest, SoftPrompts, TextPrompts

if TYPE_CHECKING:
    from benchmarks.reliability.proxy import Seen

MODEL = "stub::0"
CONTEXT, CONTEXT_SHAPE = "a photo of a", (4, 16)
"""The stub's context: so many tokens, so wide."""

CLASSES = ["cat", "dog", "sea lion", "owl"]
TEMPLATES = ["a photo of a {}.", "{}", "a blurry picture of the {}", "so much {} here!"]
PROGRAM = "benchmarks.reliability.fault_client"
STARTED_S = 60.0
FINISHED_S = 300.0


class Purchase(NamedTuple):
    """One request and its price."""

    name: str
    queries: int
    texts: int
    body: bytes
    tensors: bool

    def plan(self) -> dict[str, Any]:
        """As the client program reads it."""
        kind = TENSORS if self.tensors else "application/json"
        return {"name": self.name, "type": kind, "body": base64.b64encode(self.body).decode()}


def draw(rng: random.Random, name: str, image_set: str, *, most: int) -> Purchase:
    """A purchase of 1 to `most` prompts: soft ones in tensors, or text in JSON."""
    queries = rng.randint(1, most)
    classes = rng.sample(CLASSES, rng.randint(2, len(CLASSES)))
    texts = queries * len(classes)
    soft = rng.random() < 0.5
    prompts: SoftPrompts | TextPrompts
    if soft:
        prompts = SoftPrompts(context=CONTEXT)
    else:
        prompts = TextPrompts(templates=rng.sample(TEMPLATES, queries))
    request = LogitsRequest(
        model=MODEL, image_set=image_set, class_names=classes, prompts=prompts, tag="faults"
    )
    if not soft:
        body = request.model_dump_json(exclude_none=True).encode()
        return Purchase(name, queries, texts, body, tensors=False)
    draw_offsets = np.random.default_rng(rng.getrandbits(64))
    offsets = draw_offsets.standard_normal((queries, *CONTEXT_SHAPE), np.float32)
    body = wire.encode_request(request, offsets)
    return Purchase(name, queries, texts, body, tensors=True)


class Clients:
    """The clients of a round, one process each, and all that they and others heard.

    Args:
        folder: gets plans and journals.
        key: a token.
        shares: what each client is to buy; a purchase may be in several shares.
    """

    def __init__(self, folder: Path, key: str, shares: Sequence[Sequence[Purchase]]) -> None:
        self._folder = folder
        self._key = key
        self._shares = shares
        self._processes: list[subprocess.Popen[bytes]] = []
        self.overheard: list[Seen] = []
        """Replies that somebody else saw on their way, whether or not a client got them."""
        self.kills = 0

    @property
    def size(self) -> int:
        """How many clients there are."""
        return len(self._shares)

    def start(self, ports: Sequence[int]) -> None:
        """Start all clients on these servers, each beginning with the next one."""
        for number, share in enumerate(self._shares):
            plan = {
                "ports": list(ports),
                "first": number % len(ports),
                "key": self._key,
                "purchases": [purchase.plan() for purchase in share],
            }
            self._file("plan", number).write_text(json.dumps(plan))
            self._processes.append(self._launch(number))

    def wait_for_answers(self, count: int = 1) -> None:
        """Return when so many answers came, or all clients are done."""
        end = time.monotonic() + STARTED_S
        while len(self.lines()) < count and any(one.poll() is None for one in self._processes):
            if time.monotonic() > end:
                raise SystemExit("the clients get no answers")
            time.sleep(0.01)

    def kill(self, number: int) -> None:
        """SIGKILL a client and start it again on its journal."""
        process = self._processes[number]
        self.kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._processes[number] = self._launch(number)

    def finish(self) -> list[str]:
        """Wait until all clients are done; what they complain of."""
        complaints = []
        end = time.monotonic() + FINISHED_S
        for number, process in enumerate(self._processes):
            try:
                code: int | str = process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = f"no end within {FINISHED_S:.0f} s"
            if code != 0:
                said = self._file("errors", number).read_text()[-500:]
                complaints.append(f"client {number} ended with {code}: {said}")
        return complaints

    def close(self) -> None:
        """Kill what runs."""
        for process in self._processes:
            process.kill()
            process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """All journals, line by line."""
        files = [self._file("journal", number) for number in range(len(self._processes))]
        return [line for file in files for line in lines_of(file)]

    def answers(self) -> dict[str, list[Answer]]:
        """Replies of clients to each purchase; attempts without an answer are among them."""
        found: dict[str, list[Answer]] = {}
        for line in self.lines():
            answer = Answer(**{name: line[name] for name in Answer._fields})
            found.setdefault(line["name"], []).append(answer)
        return found

    def heard(self, name: str) -> list[Answer]:
        """What somebody else saw servers say of a purchase."""
        return [seen.answer for seen in self.overheard if seen.name == name]

    def statuses(self) -> str:
        """How often each status came that is not 200; 0 is no answer at all."""
        found = Counter(line["status"] for line in self.lines())
        del found[200]
        return ", ".join(f"{status}: {count}" for status, count in sorted(found.items()))

    def unended(self) -> set[tuple[int, str]]:
        """Clients and purchases that never got a final answer."""
        left = set()
        for number, share in enumerate(self._shares):
            lines = lines_of(self._file("journal", number))
            done = {line["name"] for line in lines if line[ENDED]}
            left |= {(number, one.name) for one in share if one.name not in done}
        return left

    def purchases(self) -> dict[str, Purchase]:
        """All that was to be bought, by name."""
        return {purchase.name: purchase for share in self._shares for purchase in share}

    def _launch(self, number: int) -> "subprocess.Popen[bytes]":
        plan, journal = self._file("plan", number), self._file("journal", number)
        with self._file("errors", number).open("ab") as errors:
            return subprocess.Popen(
                module(PROGRAM, plan, journal), env=environment(), stderr=errors
            )

    def _file(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}"
