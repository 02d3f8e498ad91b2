"""Every method by shots and budget: on digits, and on photographs where DATA has them.

    python -m benchmarks shots-budgets [--data ../shared/data] [--out bench/accuracy] [--jobs 2]
                               [--shots 16 8 4 2 1] [--seeds 1 2 3] [--budgets 10 25 ... 8000]

More than an hour for digits on 2 cores, longer for photographs; the same command goes on where an
earlier one stopped. `craft-tuner bench` runs each part: digits on the embedded model, digits with
fewer prompts per image, the folders of DATA/images on natural_mini. Tables and curves are in
OUT/PART/, what this prints is the check and the table of prompts per image. (Real CLIP features are
real_features.py's.) Exit code 1 where `auto` is more than `MOST_BELOW` points below the better of
zero-shot and CraFT, mean of the seeds, or a cell failed that its budget would have covered.
"""

import argparse
import csv
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common.machine import Row, describe, options_of, print_heading, print_table
from benchmarks.common.programs import TUNER
from benchmarks.common.servers import serving

BUDGETS = [10, 25, 100, 500, 1000, 2000, 8000]
PROMPTS = (1, 2, 4, 8)
MOST_BELOW = 1.0
"""Points."""
FAILED = 1
"""Exit code of a bench where cells failed."""
TOO_LITTLE = "does not cover"
"""What a method says of a budget below its least."""


def bench(out: Path, data: Sequence[str | Path], options: argparse.Namespace, *more: str) -> bool:
    """Run the cells that are missing; whether the only failures are budgets too small."""
    grid = {name: ",".join(map(str, getattr(options, name))) for name in ("shots", "seeds")}
    flags = [f"--{name}={value}" for name, value in grid.items()]
    flags += [f"--data={each}" for each in data]
    command: list[str | Path] = [TUNER, "bench", f"--out={out}", f"--jobs={options.jobs}"]
    done = subprocess.run([*command, *flags, *more], check=False)
    if done.returncode not in (0, FAILED):
        raise SystemExit(done.returncode)
    return all(cell["state"] == "done" or TOO_LITTLE in cell["reason"] for cell in cells(out))


def cells(out: Path) -> list[dict[str, str]]:
    """What a bench left, a line a cell."""
    with (out / "cells.csv").open(encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def mean(found: Sequence[dict[str, str]], **wanted: object) -> float | None:
    """Mean accuracy in per cent of the cells with these values; None where there are none."""
    values = [
        100 * float(cell["accuracy"])
        for cell in found
        if cell["accuracy"] and all(cell[name] == str(value) for name, value in wanted.items())
    ]
    return statistics.mean(values) if values else None


def below(out: Path) -> Iterator[str]:
    """Where auto falls short of zero-shot or CraFT, in sentences."""
    found = cells(out)
    grid = {(cell["data"], cell["shots"], cell["budget"]) for cell in found if cell["shots"]}
    for data, shots, budget in sorted(grid):
        at = {"data": data, "shots": shots, "budget": budget}
        ours, craft = mean(found, method="auto", **at), mean(found, method="craft", **at)
        better = max(filter(None, (craft, mean(found, method="zero_shot", data=data))))
        if ours is not None and ours < better - MOST_BELOW:
            yield f"{data}, {shots} shots, {budget} queries: auto {ours:.2f}, not {better:.2f}"


def by_prompts(out: Path, options: argparse.Namespace) -> list[Row]:
    """Digits with fewer prompts per image: a line for each number of shots."""
    rows: list[Row] = [{"shots": shots} for shots in options.shots]
    for prompts in PROMPTS:
        part = out / f"digits-{prompts}-prompts"
        more = ("--start-server", "--methods=bank", f"--set=prompts_per_image={prompts}")
        bench(part, ["digits"], options, *more)
        for row in rows:
            row[f"of {prompts}"] = mean(cells(part), shots=row["shots"])
    return rows


def photographs(data: Path, out: Path, options: argparse.Namespace, *more: str) -> list[Path]:
    """The folders of DATA on the model of DATA, where both are there."""
    files = [data / "natural_mini" / f"natural-mini.{end}" for end in ("json", "safetensors")]
    folders = sorted(path for path in (data / "images").glob("*") if path.is_dir())
    if not (folders and all(file.exists() for file in files)):
        print(f"photographs are skipped: {data} has no images or no natural_mini (--data)")
        return []
    model, pretrained = (file.absolute() for file in files)
    with serving(out / "server", model=model, pretrained=pretrained) as server:
        for folder in folders:
            access = (f"--server={server.url}", f"--key={server.mint()}")
            bench(out / folder.name, [folder], options, *access, *more)
    return [out / folder.name for folder in folders]


def main() -> None:
    """Run all parts; print what they show."""
    options = options_of(
        __doc__,
        data="../shared/data",
        out="bench/accuracy",
        jobs=2,
        shots=[16, 8, 4, 2, 1],
        seeds=[1, 2, 3],
        budgets=BUDGETS,
    )
    about, out = describe(), Path(options.out)
    budgets = f"--budgets={','.join(map(str, options.budgets))}"
    good = bench(out / "digits", ["digits"], options, "--start-server", budgets)
    rows = by_prompts(out, options)
    others = photographs(Path(options.data), out, options, budgets)
    print_heading("A bank of 8 prompts by prompts per image: digits, accuracy in %", about)
    columns = {f"of {count}": f"{count} prompts|.2f" for count in PROMPTS}
    print_table(rows, {"shots": "shots"} | columns)
    problems = [] if good else [f"cells failed; see {out / 'digits' / 'table.md'}"]
    for part in (out / "digits", *others):
        print(f"{part / 'table.md'}: every method by shots and budget")
        problems += below(part)
    raise SystemExit("\n".join(problems) or None)


if __name__ == "__main__":
    main()
