"""Shots from one source, test images from another: does an adapter fall below zero-shot?

    python -m benchmarks domain-shift [--method auto] [--shots 1 2 4 16]
                              [--seeds 1 2 3 4 5 6] [--data ../shared/data] [--fresh]
                              [--json FILE]

Class folders are written (domains.py), a real server serves the model, and `craft-tuner fit` runs
on the folders for every shift, number of shots and seed. The table has mean accuracies in per cent:
zero-shot, the adapter, and the adapter on test images of the shots' own source, which is what the
gate must not cost. Digits are served by the embedded model; scenes by natural_mini, and left out
where DATA has none; --fresh spoils them in ways that no rule was chosen on. Every line where an
adapter is more than `MOST_BELOW` points below zero-shot is said; the exit code is 1 if one is so by
more than its standard error over the seeds.
"""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.accuracy.domains import Shift, digit_shifts, scene_shifts
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.programs import TUNER
from benchmarks.common.servers import Server, serving

MOST_BELOW = 1.0
"""Points."""

COLUMNS = {
    "shift": "shots -> test images",
    "shots": "shots",
    "zero_shot": "zero-shot, %|.1f",
    "adapted": "adapted, %|.1f",
    "gain": "difference|+.1f",
    "deviation": "its deviation|.1f",
    "same_source": "difference on the shots' source|+.1f",
    "queries": "queries|,",
}


class Setup(NamedTuple):
    """A model and the shifts that are tried on it."""

    model: dict[str, object]
    preset: tuple[str, ...]
    shifts: Sequence[Shift]


class Fitter(NamedTuple):
    """Runs the command line against a server."""

    server: Server
    key: str
    method: str

    def run(self, *arguments: str | Path) -> str:
        """What `craft-tuner ARGUMENTS` prints.

        Raises:
            CalledProcessError: it failed.
        """
        flags = ("--server", self.server.url, "--key", self.key)
        done = subprocess.run(
            [TUNER, *arguments, *flags], stdout=subprocess.PIPE, encoding="utf-8", check=True
        )
        return done.stdout

    def fit(self, data: Path, run: Path, *, shots: int, seed: int, more: Sequence[str]) -> Row:
        """The content of result.json."""
        flags = ("--method", self.method, "--shots", str(shots), "--seed", str(seed), *more)
        self.run("fit", "--data", data, "--run", run, *flags)
        found: Row = json.loads((run / "result.json").read_text())
        return found

    def gain_on(self, run: Path, data: Path) -> float:
        """Points above zero-shot on the test images of another folder."""
        flags = ("--data", data, "--zero-shot", "--json")
        return gain(json.loads(self.run("evaluate", run, *flags)))


def gain(evaluation: Row) -> float:
    """Points of the adapter above zero-shot."""
    return points(evaluation, "adapted") - points(evaluation, "zero_shot")


def points(evaluation: Row, way: str) -> float:
    """Accuracy in per cent."""
    return 100 * float(evaluation[way]["accuracy"])


def setups(data: Path, *, fresh: bool = False) -> Iterator[Setup]:
    """What there is to try on this machine; of what was kept for last there are scenes alone."""
    if not fresh:
        yield Setup({"model": "embedded"}, ("--preset", "digits"), [*digit_shifts()])
    mini = data / "natural_mini"
    try:
        shifts = [*scene_shifts(data, fresh=fresh)]
    except FileNotFoundError as error:
        print(f"scenes are skipped: {error.filename} is absent (--data)")
        return
    files = {"model": mini / "natural-mini.json", "pretrained": mini / "natural-mini.safetensors"}
    yield Setup({name: file.absolute() for name, file in files.items()}, (), shifts)


def study(fitter: Fitter, setup: Setup, folder: Path, *, shots: int, seeds: list[int]) -> list[Row]:
    """A line for each shift, mean over the seeds."""
    rows = []
    for number, shift in enumerate(setup.shifts):
        back = folder / str(number ^ 1)  # shifts come in pairs, there and back
        results, own = [], []
        for seed in seeds:
            run = folder / f"{number}-{shots}-{seed}"
            data = folder / str(number)
            results.append(fitter.fit(data, run, shots=shots, seed=seed, more=setup.preset))
            own.append(fitter.gain_on(run, back))
        gains = [gain(result["evaluation"]) for result in results]
        ways = ("zero_shot", "adapted")
        rows.append(
            {
                "shift": shift.name,
                "shots": shots,
                "gain": statistics.mean(gains),
                "gains": gains,
                "deviation": statistics.stdev(gains) if len(gains) > 1 else 0.0,
                "same_source": statistics.mean(own),
                "queries": results[0]["spent_total"]["queries"],
            }
            | {w: statistics.mean(points(r["evaluation"], w) for r in results) for w in ways}
        )
    return rows


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(
        __doc__,
        method="auto",
        data="../shared/data",
        shots=[1, 2, 4, 16],
        seeds=[1, 2, 3, 4, 5, 6],
        fresh=False,
    )
    about, rows = describe(), list[Row]()
    print_heading(f"Domain shift: {options.method}, seeds {options.seeds}", about)
    for setup in setups(Path(options.data), fresh=options.fresh):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            for number, shift in enumerate(setup.shifts):
                shift.write(folder / str(number))
            with serving(folder / "server", **setup.model) as server:
                fitter = Fitter(server, server.mint(), options.method)
                for shots in options.shots:
                    rows += study(fitter, setup, folder, shots=shots, seeds=options.seeds)
                server.totals()
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows, method=options.method)
    surely = False
    for row in rows:
        if row["gain"] < -MOST_BELOW:
            error = row["deviation"] / len(options.seeds) ** 0.5
            print(f"{row['shift']}, {row['shots']} shots: {row['gain']:.1f} +- {error:.1f}")
            surely |= row["gain"] + error < -MOST_BELOW
    raise SystemExit(surely)


if __name__ == "__main__":
    main()
