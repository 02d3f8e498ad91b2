"""The fault campaign: real servers, clients and stores, disturbed round by round; an exact ledger.

    python -m benchmarks faults [--rounds 100] [--seed 0] [--store sqlite|postgres|both]
                                [--only SCENARIO] [--json FILE]

Each round has a key whose budget is exactly what its clients are to buy (or less, in a race), and
one scenario of scenarios.py. The same seed draws the same purchases and faults; when they
meet is up to the machine. Both stores are disturbed at the same time, each with servers of its own.
A line for each round ends with the statuses that clients met beside 200 (0: no answer). Exits 1 if
anything is found.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.reliability.cluster import Cluster, processes
from benchmarks.reliability.invariants import COUNTED
from benchmarks.reliability.scenarios import SCENARIOS, Played, Scenario, play
from benchmarks.reliability.stores import Faulty, Postgres, SqliteFile

ADDED = ("rounds", "queries", "samples", "purchases", *COUNTED)
HEADINGS = {
    "overshoot": "overshoot|,",
    "double": "double charges|,",
    "lost": "lost charges|,",
    "unexpected": "unexpected 5xx|,",
    "drained": "lost in drain|,",
    "starved": "starved|,",
    "other": "other|,",
}


def draw_scenarios(names: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """So many scenarios in random order, each as often as the others."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(names, len(names))
    return drawn[:count]


def campaign(name: str, *, rounds: int, seed: int, only: str) -> list[Row]:
    """Play all rounds on one store; a row for each."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        store: Faulty = SqliteFile(folder) if name == "sqlite" else Postgres()
        with processes(store, folder) as cluster:
            chosen = {only: SCENARIOS[only]} if only else SCENARIOS
            return play_all(cluster, chosen, folder, rounds=rounds, seed=seed)


def play_all(
    cluster: Cluster,
    chosen: Mapping[str, Scenario],
    folder: Path,
    *,
    rounds: int,
    seed: int,
    seconds: float = math.inf,
) -> list[Row]:
    """Play so many rounds of some scenarios, or as many as begin within `seconds`; their rows."""
    name = cluster.store.name
    rows: list[Row] = []
    end = time.monotonic() + seconds
    order = random.Random(f"{seed}/{name}")
    for number, scenario in enumerate(draw_scenarios(list(chosen), rounds, order), 1):
        began = time.monotonic()
        if began > end:
            break
        rng = random.Random(f"{seed}/{name}/{number}")
        own = folder / f"round-{number}"
        own.mkdir()
        played = play(cluster, chosen[scenario], own, rng)
        row = row_of(name, scenario, played, time.monotonic() - began)
        print(progress(row, f"{number}/{rounds}"), flush=True)
        rows.append(row)
    return rows


def row_of(store: str, scenario: str, played: Played, seconds: float) -> Row:
    """A round's figures."""
    figures = {kind: played.findings.counts[kind] for kind in COUNTED}
    return {
        "store": store,
        "scenario": scenario,
        "rounds": 1,
        "queries": played.queries,
        "samples": played.samples,
        "purchases": played.seen.purchases,
        "p99_ms": 1000 * played.seen.p99_s,
        "seconds": seconds,
        "said": played.said,
        "details": played.findings.details,
        **figures,
    }


def progress(row: Row, which: str) -> str:
    """A round in a line, and a line for each finding."""
    line = (
        f"{row['store']:8} {which:>7}  {row['scenario']:12}  {row['queries']:3} queries  "
        f"{row['samples']:4} samples  {row['seconds']:5.1f} s  "
        f"{sum(row[kind] for kind in COUNTED)} findings  "
        f"onlooker {row['p99_ms']:4.0f} ms  {row['said']}"
    )
    return "\n    ".join([line, *row["details"]])


def summed(rows: list[Row], *by: str) -> list[Row]:
    """Rows added up by what they have in common; of the onlooker's percentiles, the worst."""
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows:
        one = sums.setdefault(tuple(row[name] for name in by), Counter())
        one.update({name: row[name] for name in ADDED})
        one["p99_ms"] = max(one["p99_ms"], row["p99_ms"])
    return [dict(zip(by, key, strict=True)) | dict(found) for key, found in sums.items()]


def main() -> None:
    """Play, add up, and exit 1 if anything is wrong."""
    options = options_of(__doc__, rounds=100, seed=0, store="both", only="")
    wanted = ["sqlite", "postgres"] if options.store == "both" else [options.store]
    if options.only not in {"", *SCENARIOS} or not set(wanted) <= {"sqlite", "postgres"}:
        raise SystemExit(f"--store sqlite, postgres or both; --only one of {', '.join(SCENARIOS)}")
    about: dict[str, Any] = describe()
    print_heading(f"Faults: {options.rounds} rounds a store, seed {options.seed}", about)
    began = time.monotonic()
    work = partial(campaign, rounds=options.rounds, seed=options.seed, only=options.only)
    with ThreadPoolExecutor() as pool:
        rows = [row for rows in pool.map(work, wanted) for row in rows]
    conclude(rows, time.monotonic() - began, options, about)


def conclude(rows: list[Row], seconds: float, options: argparse.Namespace, about: Row) -> NoReturn:
    """Add up and exit, with 1 if anything was found."""
    print()
    figures = {"rounds": "rounds|,", "queries": "queries|,", "samples": "samples|,", **HEADINGS}
    figures |= {"purchases": "purchases of another owner|,", "p99_ms": "99th percentile, ms|.0f"}
    print_table(
        sorted(summed(rows, "store", "scenario"), key=lambda row: (row["store"], row["scenario"])),
        {"store": "store", "scenario": "scenario", **figures},
    )
    totals = summed(rows, "store")
    print_table(totals, {"store": "store", **figures})
    good = not any(row[kind] for row in totals for kind in COUNTED)
    write_json(
        options.json,
        about,
        good=good,
        seconds=seconds,
        seed=options.seed,
        totals=totals,
        rounds=rows,
    )
    print(f"{'good' if good else 'NOT GOOD'}, {seconds:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()
