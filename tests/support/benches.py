"""Benches of real processes: `craft-tuner bench` on two classes of noise, against a stub server."""

import contextlib
import csv
import json
import os
import subprocess
import time
from pathlib import Path

from craft_server.metering.ledger import Ledger
from tests.support.serving import SCRIPTS, png

SETTINGS = ("population=6", "validation_folds=2", "views=2", "head_hidden=8", "intrinsic_dim=32")
GRID = (
    *("--shots", "2", "--seeds", "1", "--methods", "bbt,zero_shot", "--budgets", "44"),
    *(word for setting in SETTINGS for word in ("--set", setting)),
)
BBT, ZERO_SHOT, CRAFT = (
    "photos-bbt-2shots-seed1-44queries",
    "photos-zero_shot",
    "photos-craft-2shots-seed1-44queries",
)
PLANNED = {BBT: 7 * 6 + 2, ZERO_SHOT: 1}
"""Queries of each cell: 7 generations of 6 and two tests, or one test."""


def build_photos(root: Path) -> Path:
    """Two classes: 2 shots and 3 test images each."""
    for split, count in (("train", 2), ("test", 3)):
        for label, name in enumerate(("cat", "sea_lion")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + number + (50 if split == "test" else 0)
                (folder / f"{number}.png").write_bytes(png(seed, (20, 20)))
    return root


def start_bench(server, key, photos, out, *more):
    environment = server.env | {"CRAFT_SERVER_URL": server.url, "CRAFT_API_KEY": key}
    command = [SCRIPTS / "craft-tuner", "bench", "--data", photos, "--out", out, *GRID, *more]
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output
    return output


def worker_of(out, cell, bench, *, generations):
    """The process that holds a cell's lock, once so many generations are committed."""
    run = out / "runs" / cell
    end = time.monotonic() + 120
    lines = run / "metrics.jsonl"
    while not lines.exists() or lines.read_bytes().count(b"\n") < generations:
        assert bench.poll() is None, bench.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    return int((run / "lock").read_text())


def end_of(pid):
    """Wait until a process that is not ours is gone."""
    end = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.01)
        raise AssertionError(pid)


def spent_by_cell(server, out):
    """What the ledger says that each cell's run spent, after an audit."""
    store = server.store()
    ledger = Ledger(store)
    assert ledger.audit() == []
    [(key_id, _)] = ledger.totals().items()
    assert ledger.budgets(key_id).queries.held == 0
    by_run = {one.run: one.counters.queries for one in ledger.usage(key_id, by="run").buckets}
    store.close()
    runs = {
        run.parent.name: json.loads(run.read_text())["run_id"]
        for run in (out / "runs").glob("*/config.json")
    }
    assert set(by_run) <= set(runs.values())
    return {cell: by_run.get(run_id, 0) for cell, run_id in runs.items()}


def numbers(out):
    """What cells.csv says but for times."""
    with (out / "cells.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
