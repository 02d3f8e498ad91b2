"""Can an owner tell by time or headers whether another owner has an image?

    python -m benchmarks existence-oracle [--probes 1000] [--json FILE]

A real server with the embedded model. One owner uploads half of the images and asks about each,
alone in a set. Another owner then does the same with all of them, in random order: is it missing,
upload, set, a query, the query again, delete set and image. Every time, header and size of every
reply is given to a classifier (`benchmarks.common.guess`), which must not be right more often than
`BAR`. That it could be is shown in the same run: it has to tell first queries from second ones, of
images that nobody else has.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common.guess import Observation, tell
from benchmarks.common.machine import (
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.servers import MULTIPART, Wire, multipart, noise_png, serving

BAR = 0.55
"""Most that the classifier may be right. With 1,000 probes each way, half of them to test on, a
coin's share has a spread of 0.016: the bar is three of these above it."""

SEES = 0.8
"""Least that it must be right on first and second queries, or the run says nothing."""

COLUMNS = {
    "question": "told apart",
    "feature": "by",
    "right": "right|.1%",
    "spread": "a coin's spread|.1%",
}

_JSON = "application/json"
_SIDE = 96


class Prober:
    """An owner that does all that can be done with one image, and notes what it sees."""

    def __init__(self, port: int, key: str, model: str) -> None:
        self._wire = Wire(port, key)
        self._model = model
        self.seen: dict[str, float | str] = {}

    def probe(self, data: bytes, name: str) -> tuple[Observation, Observation]:
        """What is seen of a new image, and of asking about it again."""
        self.seen = {}
        set_id, image_id = self.use(data, name)
        first = dict(self.seen)
        self.seen = {}
        self._ask(set_id, f"{name}-again")
        again = dict(self.seen)
        self.seen = first
        self._call("delete set", "DELETE", f"/v1/image-sets/{set_id}")
        self._call("delete image", "DELETE", f"/v1/images/{image_id}")
        return self.seen, again

    def use(self, data: bytes, name: str) -> tuple[str, str]:
        """Upload an image, make a set of it and ask about that; ids of set and image."""
        image_id = _digest(data)
        self._call("missing", "POST", "/v1/images/missing", {"ids": [image_id]})
        self._call("upload", "POST", "/v1/images", multipart([data]), Content_Type=MULTIPART)
        made = self._call("set", "POST", "/v1/image-sets", {"images": [image_id]})
        self._ask(made["id"], name)
        return made["id"], image_id

    def _ask(self, set_id: str, name: str) -> None:
        request = {
            "model": self._model,
            "image_set": set_id,
            "class_names": ["cat", "dog"],
            "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
        }
        self._call("ask", "POST", "/v1/logits", request, Idempotency_Key=name)

    def _call(self, what: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send it and note time, status, size and every header, numbers in it apart."""
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), headers | {"Content_Type": _JSON}
        began = time.perf_counter()
        reply = self._wire.send(method, path, body, **headers)
        content = reply.read()
        self.seen[f"{what}: seconds"] = time.perf_counter() - began
        self.seen[f"{what}: status"] = str(reply.status)
        self.seen[f"{what}: bytes"] = float(len(content))
        for header, value in reply.getheaders():
            self._note(f"{what}: {header}", value)
        if reply.status >= 400 and method != "DELETE":  # servers before this one delete nothing
            raise SystemExit(f"{what}: {reply.status} {content[:300]!r}")
        return json.loads(content) if content else None

    def _note(self, name: str, value: str) -> None:
        if name.lower().endswith("server-timing"):
            for entry in value.split(","):
                part, _, spent = entry.strip().partition(";dur=")
                self.seen[f"{name} {part}"] = float(spent)
        else:
            self.seen[name] = value


def _digest(data: bytes) -> str:
    import hashlib  # noqa: PLC0415 - once

    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Run, print a table in Markdown, and fail above the bar."""
    options = options_of(__doc__, probes=1000, seed=0)
    about = describe()
    print_heading("Whether another owner has an image", about)
    files = [noise_png(options.seed + number, side=_SIDE) for number in range(2 * options.probes)]
    kept = set(random.Random(options.seed).sample(range(len(files)), options.probes))
    order = random.Random(options.seed + 1).sample(range(len(files)), len(files))
    looks, repeats = [], []
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        model = json.loads(Wire(server.port, server.mint()).read("GET", "/v1/models"))
        model_id = model["models"][0]["id"]
        other = Prober(server.port, server.mint(owner="other"), model_id)
        for number in sorted(kept):
            other.use(files[number], f"other-{number}")
        prober = Prober(server.port, server.mint(owner="prober"), model_id)
        for number in order:
            seen, again = prober.probe(files[number], f"probe-{number}")
            looks.append((seen, number in kept))
            asked = {name: value for name, value in seen.items() if name.startswith("ask")}
            if number not in kept:
                repeats += [(asked, False), (again, True)]
    found, each = tell(looks)
    control, _ = tell(repeats)
    rows = [
        {"question": "another owner has it or not", **found._asdict()},
        {"question": "asked first or again (control)", **control._asdict()},
    ]
    print_table(rows, COLUMNS)
    print("By each feature alone, the best ten:\n")
    print_table([{"question": "", **one._asdict()} for one in each[:10]], COLUMNS)
    write_json(options.json, about, rows=rows, features=[one._asdict() for one in each])
    if control.right < SEES:
        raise SystemExit(f"the control was told in {control.right:.1%} only: too noisy to say")
    if found.right > BAR:
        raise SystemExit(f"told in {found.right:.1%} by {found.feature}: above {BAR:.0%}")


if __name__ == "__main__":
    main()
