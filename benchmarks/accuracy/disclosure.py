"""Keys with reduced outputs: what methods make of them, beside what zero-shot makes.

    python -m benchmarks disclosure [--methods auto,craft_plus] [--shots 16 4 1] [--seeds 1 2 3]
                              [--json FILE]

A real server serves the embedded model; each output policy has a key of its own, and
`craft-tuner fit --data digits` runs with it for every method, number of shots and seed. The table
has mean and sample deviation of test accuracy in per cent, and zero-shot's by the same key.
What the tuner refuses is "refused: REASON". Exit code 1 if `auto` is in the mean more than
`MOST_BELOW` points below zero-shot somewhere, or if a run ends with anything but a refusal.
"""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.accuracy.demo_seeds import points
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.programs import TUNER
from benchmarks.common.servers import serving

MOST_BELOW = 1.0
"""Points."""

REFUSED = range(2, 9)
"""Exit codes of the tuner's own errors (craft_tuner.errors)."""


class Policy(NamedTuple):
    """What is disclosed to a key, and how its replies are sent."""

    name: str
    output: dict[str, object] | None = None
    flags: tuple[str, ...] = ()


POLICIES = (
    Policy("logits"),
    Policy("logits sent as float16", flags=("--dtype", "float16")),
    Policy("logits sent as int16", flags=("--dtype", "int16")),
    *(Policy(f"rounded to {step:g}", {"kind": "rounded", "step": step}) for step in (0.01, 0.1, 1)),
    Policy("log-probabilities", {"kind": "log_probabilities"}),
    Policy("top 3", {"kind": "top_k", "k": 3}),
    Policy("label", {"kind": "label"}),
)


def fit(run: Path, *flags: object) -> Row:
    """The content of result.json of `craft-tuner fit FLAGS`, or {"refused": REASON}.

    Raises:
        SystemExit: it failed otherwise; the end of what it said is shown.
    """
    command = (TUNER, "fit", "--data", "digits", "--preset", "digits", "--run", run, *flags)
    said = [str(each) for each in command]
    done = subprocess.run(said, capture_output=True, encoding="utf-8", check=False)
    if done.returncode == 0:
        found: Row = json.loads((run / "result.json").read_text())
        return found
    if done.returncode not in REFUSED:
        raise SystemExit(f"{said} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    reason = done.stderr.strip().splitlines()[-1]
    return {"refused": reason.removeprefix("craft-tuner: ")}


def row_of(results: list[Row]) -> Row:
    """Mean and deviation over the seeds; the first refusal stands for all."""
    for result in results:
        if "refused" in result:
            return result
    adapted = [points(result["evaluation"], "adapted") for result in results]
    zero_shot = statistics.mean(points(result["evaluation"], "zero_shot") for result in results)
    return {
        "zero_shot": zero_shot,
        "adapted": statistics.mean(adapted),
        "each": adapted,
        "deviation": statistics.stdev(adapted) if len(adapted) > 1 else 0.0,
        "gain": statistics.mean(adapted) - zero_shot,
        "queries": max(result["spent_total"]["queries"] for result in results),
    }


def lines(rows: list[Row]) -> Iterator[Row]:
    """A line for each policy and method, numbers of shots side by side."""
    for name, method in dict.fromkeys((row["output"], row["method"]) for row in rows):
        line: Row = {}
        for row in rows:
            if (row["output"], row["method"]) == (name, method):
                line |= row | {heading(row["shots"]): cell(row)}
        yield line


def heading(shots: int) -> str:
    """Of the column of a number of shots."""
    return "1 shot, %" if shots == 1 else f"{shots} shots, %"


def cell(row: Row) -> str:
    """Accuracy and deviation, or why there is none."""
    if "refused" in row:
        return f"refused: {row['refused']}"
    return f"{row['adapted']:.2f} ± {row['deviation']:.2f}"


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, methods="auto,craft_plus", shots=[16, 4, 1], seeds=[1, 2, 3])
    about, rows = describe(), list[Row]()
    print_heading(f"Keys with reduced outputs: digits, seeds {options.seeds}", about)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with serving(folder / "server", model="embedded") as server:
            for policy in POLICIES:
                key = server.mint(policy=policy.output and {"output": policy.output})
                flags = ("--server", server.url, "--key", key, *policy.flags)
                for method in options.methods.split(","):
                    for shots in options.shots:
                        setting = {"output": policy.name, "method": method, "shots": shots}
                        results = [
                            fit(
                                folder / f"run-{len(rows)}-{seed}",
                                *("--method", method, "--shots", shots, "--seed", seed, *flags),
                            )
                            for seed in options.seeds
                        ]
                        rows.append(setting | row_of(results))
            server.totals()
    columns = {"output": "output", "method": "method", "zero_shot": "zero-shot, %|.2f"}
    columns |= {heading(shots): heading(shots) for shots in options.shots}
    print_table([*lines(rows)], columns | {"queries": "queries|,"})
    write_json(options.json, about, rows=rows)
    below = [row for row in rows if row["method"] == "auto" and row.get("gain", 0) < -MOST_BELOW]
    raise SystemExit(
        "\n".join(
            f"{row['output']}, {row['shots']} shots: {-row['gain']:.1f} below zero-shot"
            for row in below
        )
        or None
    )


if __name__ == "__main__":
    main()
