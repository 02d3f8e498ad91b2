"""What the server costs beside the model: a stub black box behind the real program and meter.

    python -m benchmarks overhead [--seconds 5] [--clients 8] [--json FILE]

Prints requests per second and the times of small requests, from 1 client and from several, against
those of a route that touches neither meter nor queue: all in one run. Clients are processes with
one keep-alive connection and ready-made bodies, so that the server is what is measured.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    percentile,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.servers import Wire, noise_png, serving

COLUMNS = {
    "route": "route",
    "clients": "clients",
    "per_s": "requests/s together|.0f",
    "p50_ms": "p50, ms|.2f",
    "p99_ms": "p99, ms|.2f",
    "over_bare": "p50 / bare p50|.1f",
}


def ask_bare(port: int, seconds: float) -> list[float]:
    """Ask a route without key, meter or queue; seconds per request."""
    connection, times = Wire(port), []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        connection.read("GET", "/livez")
        times.append(time.perf_counter() - began)
    return times


def buy(port: int, key: str, body: bytes, seconds: float) -> list[float]:
    """Buy one query after the other; seconds per request."""
    connection = Wire(port, key)
    times: list[float] = []
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        connection.read(
            "POST",
            "/v1/logits",
            body,
            Content_Type="application/json",
            Idempotency_Key=f"{name}-{len(times)}",
        )
        times.append(time.perf_counter() - began)
    return times


def row(route: str, clients: list[list[float]], seconds: float) -> Row:
    """Rate and percentiles of several clients' times."""
    times = [one for client in clients for one in client]
    return {
        "route": route,
        "clients": len(clients),
        "requests": len(times),
        "per_s": len(times) / seconds,
        "p50_ms": 1000 * statistics.median(times),
        "p99_ms": 1000 * percentile(times, 99),
    }


def small_request(image_set: str) -> bytes:
    """One text prompt, two classes, one image."""
    request = {
        "model": "stub::0",
        "image_set": image_set,
        "class_names": ["cat", "dog"],
        "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
    }
    return json.dumps(request).encode()


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, seconds=5.0, clients=8)
    about, rows, seconds = describe(), [], options.seconds
    print_heading("The server beside the model", about)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), model="stub") as server:
        key = server.mint()
        body = small_request(Wire(server.port, key).image_set([noise_png(0, side=8)]))
        bare, one = partial(ask_bare, server.port), partial(buy, server.port, key, body)
        with multiprocessing.get_context("fork").Pool(options.clients) as pool:
            for clients in (1, options.clients):
                for route, work in (("bare", bare), ("one query", one)):
                    done = pool.map(work, [seconds] * clients, chunksize=1)
                    rows.append(row(route, done, seconds))
        totals = server.totals()
    bought = sum(one["requests"] for one in rows if one["route"] == "one query")
    if sum(total["queries"] for total in totals) != bought:
        raise SystemExit(f"the ledger does not balance: {bought} bought, ledger {totals}")
    for one_row in rows:
        alone = next(r for r in rows if (r["route"], r["clients"]) == ("bare", 1))
        one_row["over_bare"] = one_row["p50_ms"] / alone["p50_ms"]
    print_table(rows, COLUMNS)
    print(f"ledger: {bought:,} queries bought, as many in it and on the key's counter")
    write_json(options.json, about, rows=rows)


if __name__ == "__main__":
    main()
