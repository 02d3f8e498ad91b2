"""One 8,000-query fit killed again and again: the same adapter bit for bit, and the planned bill.

    python -m benchmarks killed-fit [--kills 20] [--seed 0] [--queries 8000] [--json FILE]

`craft-tuner fit` against `craft-server serve --model stub`, twice: undisturbed, and with SIGKILL at
random moments, in each case gone on by `craft-tuner fit --resume`. A fifth of the kills come while
the tuner starts or restores, the others anywhere in the run. Exits 1 if a byte of the adapter
differs, if the ledger is not the plan phase by phase, or if fewer kills than asked for hit.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.machine import describe, options_of, print_heading, print_table, write_json
from benchmarks.common.programs import TUNER
from benchmarks.common.servers import Server, noise_png, serving

CLASSES = ("cat", "sea_lion")
IMAGES = {"train": 2, "test": 3}
SETTINGS = {"method": "craft", "shots": 2, "validation_folds": 2, "views": 2}
SECONDS_PER_QUERY = 0.001
ADAPTER = ("adapter.safetensors", "adapter.json")
AT_START = 0.2
"""Part of the kills that come so soon that nothing new was bought."""

START_S = 4.0
PROGRESS_S = 300.0
GENERATION_S = 0.05
"""A generation takes about so long: a kill hits any moment of it."""


class Bill(NamedTuple):
    """What a run was to cost, and what its ledger says, in queries and calls by phase."""

    planned: dict[str, tuple[int, int]]
    sold: dict[str, tuple[int, int]]
    used: int


def make_photos(folder: Path) -> Path:
    """Two classes of noise."""
    for split, count in IMAGES.items():
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * len(split) + 100 * label + number
                (place / f"{number}.png").write_bytes(noise_png(seed))
    return folder


class Fit:
    """`craft-tuner fit`, started and resumed."""

    def __init__(self, server: Server, photos: Path, run: Path, queries: int) -> None:
        self.run = run
        self._environment = os.environ | {
            "CRAFT_SERVER_URL": server.url,
            "CRAFT_API_KEY": server.mint(queries),
        }
        flags = [f"--set={name}={value}" for name, value in SETTINGS.items()]
        self._first = ["--data", str(photos), "--run", str(run), "--budget", str(queries), *flags]
        self._log = run.with_suffix(".log")

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin, or go on with what is there."""
        begun = (self.run / "config.json").exists()
        arguments = ["--resume", str(self.run)] if begun else self._first
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [TUNER, "fit", *arguments], env=self._environment, stdout=log, stderr=log
            )

    def finish(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for its end.

        Raises:
            SystemExit: it failed.
        """
        if process.wait() != 0:
            raise SystemExit(f"the fit failed:\n{self._log.read_text()[-3000:]}")

    @property
    def generations(self) -> int:
        """How many are in its journal."""
        journal = self.run / "journal.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    @property
    def adapter(self) -> list[bytes]:
        """The bytes of its files."""
        return [(self.run / name).read_bytes() for name in ADAPTER]


def kill_often(fit: Fit, *, kills: int, generations: int, rng: random.Random) -> int:
    """Run a fit to its end under so many SIGKILLs; how many hit it before it ended."""
    targets = sorted(rng.randrange(generations) for _ in range(kills))
    hits = 0
    for target in targets:
        process = fit.start()
        if rng.random() < AT_START:
            time.sleep(rng.uniform(0, START_S))
        else:
            _wait_for(fit, process, target)
            time.sleep(rng.uniform(0, GENERATION_S))
        hits += process.poll() is None
        process.kill()
        process.wait()
        print(f"  killed with {fit.generations}/{generations} generations done", flush=True)
    fit.finish(fit.start())
    return hits


def undisturbed(fit: Fit) -> int:
    """Run a fit to its end without a kill."""
    fit.finish(fit.start())
    return 0


def bill(server: Server, fit: Fit) -> Bill:
    """Plan and ledger; the server's own audit must balance as well."""
    plan = json.loads((fit.run / "plan.json").read_text())
    planned = {
        phase["purpose"]: (phase["cost"]["queries"], phase["cost"]["calls"])
        for phase in plan["phases"]
    }
    events = json.loads(server.command("usage", "--events", "--export", "json"))["events"]
    queries, calls = Counter[str](), Counter[str]()
    for event in events:
        queries[event["tag"]] += event["queries"]
        calls[event["tag"]] += 1
    [total] = server.totals()
    used = total["queries_limit"] - total["queries_remaining"]
    return Bill(planned, {tag: (queries[tag], calls[tag]) for tag in queries}, used)


def fit_once(folder: Path, queries: int, *, kill: Callable[[Fit], int]) -> dict[str, Any]:
    """A server of its own, a fit that `kill` brings to its end, and what came of it."""
    photos = folder.parent / "photos"
    with serving(folder, model="stub", stub_seconds_per_query=SECONDS_PER_QUERY) as server:
        fit = Fit(server, photos, folder / "run", queries)
        began = time.monotonic()
        hits = kill(fit)
        seconds = time.monotonic() - began
        account = bill(server, fit)
    planned = sum(queries for queries, _ in account.planned.values())
    return {
        "kills": hits,
        "generations": fit.generations,
        "seconds": seconds,
        "planned": planned,
        "ledger": sum(queries for queries, _ in account.sold.values()),
        "used": account.used,
        "calls": sum(calls for _, calls in account.sold.values()),
        "exact": account.sold == account.planned and account.used == planned,
        "adapter": fit.adapter,
    }


def main() -> None:
    """Fit twice, compare, and exit 1 if anything differs."""
    options = options_of(__doc__, kills=20, seed=0, queries=8000)
    if not options.kills:
        return
    about = describe()
    title = f"A fit of {options.queries:,} queries, killed {options.kills} times, seed"
    print_heading(f"{title} {options.seed}", about)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_photos(folder / "photos")
        first = fit_once(folder / "undisturbed", options.queries, kill=undisturbed)
        rng = random.Random(f"{options.seed}/tuner")
        kill = partial(kill_often, kills=options.kills, generations=first["generations"], rng=rng)
        second = fit_once(folder / "killed", options.queries, kill=kill)
    same = first.pop("adapter") == second.pop("adapter")
    rows = [{"fit": "undisturbed"} | first, {"fit": "killed"} | second]
    print()
    columns = {
        "fit": "fit",
        "kills": "kills that hit",
        "planned": "planned queries|,",
        "ledger": "ledger|,",
        "used": "key used|,",
        "calls": "calls|,",
        "seconds": "s|.0f",
    }
    print_table(rows, columns)
    good = same and all(row["exact"] for row in rows) and second["kills"] == options.kills
    print(f"adapter: {'the same bytes' if same else 'DIFFERS'}; {'good' if good else 'NOT GOOD'}")
    write_json(options.json, about, good=good, same=same, seed=options.seed, fits=rows)
    sys.exit(not good)


def _wait_for(fit: Fit, process: "subprocess.Popen[bytes]", generations: int) -> None:
    end = time.monotonic() + PROGRESS_S
    while fit.generations < generations and process.poll() is None:
        if time.monotonic() > end:
            raise SystemExit(f"no progress beyond {fit.generations} generations")
        time.sleep(0.002)


if __name__ == "__main__":
    main()
