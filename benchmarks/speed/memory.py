"""The server's peak memory for growing replies, to a client that reads and throws away.

    python -m benchmarks memory [--prompts 10 100 600] [--model stub] [--json FILE]

N = 1,000 images and K = 100 classes, so that P = 10, 100, 600 make 1e6, 1e7 and 6e7 logits. One
server, growing sizes: `peak` is its resident memory's high-water mark (VmHWM) after each. Memory
that is bounded by a chunk stays where it is.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common.class_names import names_of
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    peak_mb,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.servers import Server, Wire, noise_png, question, serving
from craft_shared.messages import LogitsRequest, SoftPrompts

IMAGES, SIDE = 1000, 8
UPLOAD = 250
CHUNK_BYTES = 64 * 1024
COLUMNS = {
    "prompts": "P",
    "logits": "logits|,.0f",
    "reply_mb": "reply, MB|.1f",
    "peak_mb": "peak, MB|.0f",
    "above_idle_mb": "above idle, MB|.0f",
    "per_reply": "above idle / reply|.1f",
}


def buy(client: Wire, image_set: str, prompts: int, card: Row) -> int:
    """Buy P prompts on the image set; bytes of the reply, none of them kept."""
    request = LogitsRequest(
        model=card["id"],
        image_set=image_set,
        class_names=names_of("caltech101"),
        prompts=SoftPrompts(context="a photo of a"),
    )
    draw = np.random.default_rng(0)
    offsets = 0.1 * draw.standard_normal((prompts, 4, card["context_width"]), np.float32)
    reply = client.send(**question(request, offsets, name=f"memory-{prompts}"))
    if reply.status != 200:
        raise SystemExit(f"P = {prompts}: {reply.status} {reply.read()[:300]!r}")
    size = 0
    while chunk := reply.read(CHUNK_BYTES):
        size += len(chunk)
    return size


def grow(server: Server, prompts: list[int]) -> list[Row]:
    """One row per P, in ascending order; the first is a warm-up that sets the idle mark."""
    client = Wire(server.port, server.mint())
    card = json.loads(client.read("GET", "/v1/models"))["models"][0]
    files = [noise_png(seed, SIDE) for seed in range(IMAGES)]
    for start in range(0, IMAGES, UPLOAD):
        client.image_set(files[start : start + UPLOAD])
    image_set = client.image_set(files)
    buy(client, image_set, 1, card)
    idle, rows = peak_mb(server.pid), []
    for count in sorted(prompts):
        size, classes = buy(client, image_set, count, card) / 1e6, len(names_of("caltech101"))
        peak = peak_mb(server.pid)
        rows.append(
            {
                "prompts": count,
                "logits": count * IMAGES * classes,
                "reply_mb": size,
                "peak_mb": peak,
                "above_idle_mb": peak - idle,
                "per_reply": (peak - idle) / size,
            }
        )
    return rows


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, prompts=[10, 100, 600], model="stub")
    about = describe()
    print_heading(f"The server's memory, model {options.model}", about)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), model=options.model) as server,
    ):
        rows = grow(server, options.prompts)
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows, model=options.model)


if __name__ == "__main__":
    main()
