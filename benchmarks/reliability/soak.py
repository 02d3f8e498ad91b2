"""Mixed clients against a real server for a while: no failure, no drift of memory, an exact ledger.

    python -m benchmarks soak [--minutes 30] [--clients 6] [--seed 0] [--json FILE]

The embedded model behind `craft-server serve`. What the clients do is in soak_client.py. Samples
the server's resident memory; at the end ledger, key counters and the clients' own counts must be
equal. Exits 1 on any failure, on memory that grows, or on counts that differ.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    peak_mb,
    print_heading,
    print_table,
    resident_mb,
    slope,
    write_json,
)
from benchmarks.common.servers import Server, serving
from benchmarks.reliability.soak_client import Shared, SoakClient
from craft_shared.messages import Counters

SHOWN_FAILURES = 20
NOISE_MB = 20.0
"""Growth within the second half that is within noise."""

JUDGED_MINUTES = 10.0
"""A shorter soak ends while the server still warms up: its growth is printed, not judged."""

FINISH_S = 120.0


class Sample(NamedTuple):
    """The server at one moment."""

    seconds: float
    resident_mb: float


def start(server: Server, clients: int, seed: int) -> list[SoakClient]:
    """Clients, each an owner with a rich and a poor key."""
    shared = Shared()
    return [
        SoakClient(
            server.port,
            number,
            seed=seed,
            keys=(server.mint(owner=f"soak{number}"), server.mint(1, owner=f"soak{number}")),
            shared=shared,
        )
        for number in range(clients)
    ]


def watch(
    server: Server, clients: list[SoakClient], *, minutes: float, every: float
) -> list[Sample]:
    """Run the clients; sample the server and print a line every so many seconds."""
    began = time.monotonic()
    until = began + 60 * minutes
    threads = [
        threading.Thread(target=client.run, args=(until,), daemon=True) for client in clients
    ]
    for thread in threads:
        thread.start()
    samples: list[Sample] = []
    while (now := time.monotonic()) < until and server.process.poll() is None:
        samples.append(Sample(now - began, resident_mb(server.pid)))
        print(progress(samples[-1], clients), flush=True)
        time.sleep(min(every, max(0.0, until - now)))
    for thread in threads:
        thread.join(max(0.0, until + FINISH_S - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        clients[0].failures.append(f"a client did not finish within {FINISH_S:.0f} s")
    return samples


def progress(sample: Sample, clients: list[SoakClient]) -> str:
    """One line on how far the soak is."""
    requests = sum(sum(actions(client).values()) for client in clients)
    failures = sum(len(client.failures) for client in clients)
    return (
        f"{sample.seconds:6.0f} s  {requests:8,} requests  {failures} failures  "
        f"{sample.resident_mb:.1f} MB"
    )


def actions(client: SoakClient) -> Counter[str]:
    """What a client did, without the remarks on how."""
    return Counter({kind: n for kind, n in client.counts.copy().items() if ":" not in kind})


def drift(samples: list[Sample]) -> tuple[float, float]:
    """(MB per hour, MB) that each minute's highest memory grew in the second half, least squares.

    The highest, since the server gives freed memory back every half minute: samples are a saw.
    """
    half = samples[len(samples) // 2 :]
    highest: dict[int, float] = {}
    for sample in half:
        minute = int(sample.seconds // 60)
        highest[minute] = max(highest.get(minute, 0.0), sample.resident_mb)
    if len(highest) < 2:
        return 0.0, 0.0
    per_minute = slope(list(highest), list(highest.values()))
    return 60 * per_minute, per_minute * (max(highest) - min(highest))


def compared(server: Server, clients: list[SoakClient]) -> list[Row]:
    """Per client: queries by the ledger, by the key's counter, by the client; and do they agree."""
    ledgers = {total["owner"]: total for total in reversed(server.totals()) if _rich(total)}
    rows = []
    for number, client in enumerate(clients):
        total = ledgers[f"soak{number}"]
        own = {name: client.bought[name] for name in Counters.model_fields}
        used = total["queries_limit"] - total["queries_remaining"]
        same = {name: total[name] for name in own} == own and used == own["queries"]
        rows.append(
            {
                "client": number,
                "ledger": total["queries"],
                "key": used,
                "counted": own["queries"],
                "same": "yes" if same else "NO",
            }
        )
    return rows


def _rich(total: dict[str, Any]) -> bool:
    return bool(total["queries_limit"] > 1)


def main() -> None:
    """Soak, print what was done, and exit 1 if anything is wrong."""
    options = options_of(__doc__, minutes=30.0, clients=6, seed=0, every=10.0, max_mb_per_hour=60.0)
    about = describe()
    print_heading(f"Soak: {options.clients} clients, {options.minutes:g} minutes", about)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        clients = start(server, options.clients, options.seed)
        samples = watch(server, clients, minutes=options.minutes, every=options.every)
        failures = [failure for client in clients for failure in client.failures]
        if server.process.poll() is not None:
            raise SystemExit(
                f"the server died: {(Path(folder) / 'server.log').read_text()[-2000:]}"
            )
        peak, rows = peak_mb(server.pid), compared(server, clients)
    kinds = sum((client.counts for client in clients), Counter[str]())
    per_hour, grown = drift(samples)
    judged = options.minutes >= JUDGED_MINUTES
    drifts = judged and per_hour > options.max_mb_per_hour and grown > NOISE_MB
    print_table(
        [{"kind": k, "n": n} for k, n in sorted(kinds.items())],
        {"kind": "requests", "n": "number|,"},
    )
    print_table(
        rows,
        {
            "client": "client",
            "ledger": "ledger",
            "key": "key",
            "counted": "client's count",
            "same": "equal",
        },
    )
    print(
        f"memory: {per_hour:+.1f} MB/hour in the second half ({grown:+.1f} MB), peak {peak:.0f} MB"
        f"{'' if judged else '; too short to judge'}"
    )
    print(f"failures: {len(failures)}", *failures[:SHOWN_FAILURES], sep="\n  ")
    balanced = all(row["same"] == "yes" for row in rows)
    good = not failures and not drifts and balanced
    write_json(
        options.json,
        about,
        good=good,
        requests=dict(kinds),
        failures=failures,
        mb_per_hour=per_hour,
        grown_mb=grown,
        peak_mb=peak,
        samples=samples,
        books=rows,
    )
    print("good" if good else "NOT GOOD")
    sys.exit(not good)


if __name__ == "__main__":
    main()
