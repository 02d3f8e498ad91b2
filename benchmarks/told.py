"""What the default method makes of keys that are told less than logits.

    python benchmarks/told.py [--method auto] [--shots 16 4 1] [--seeds 1 2 3] [--json FILE]

One real server with the embedded model, a key for each kind of output (craft_server/outputs.py),
and `craft-tuner fit` on digits with it. Zero-shot is what the same key is told of the plain prompt.
Exit code 1 if the adapter is more than `MOST_BELOW` points below it, mean of the seeds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from machine import Row, describe, options_of, print_heading, print_table, write_json
from servers import PLENTY, Server, serving

TUNER = Path(sys.executable).parent / "craft-tuner"
MOST_BELOW = 1.0
"""Points."""


class Told(NamedTuple):
    """A kind of key."""

    name: str
    output: dict[str, object]
    flags: tuple[str, ...] = ()


KINDS = (
    Told("logits", {"kind": "logits"}),
    Told("logits, float16 replies", {"kind": "logits"}, ("--dtype=float16",)),
    Told("rounded to 0.01", {"kind": "rounded", "step": 0.01}),
    Told("rounded to 0.1", {"kind": "rounded", "step": 0.1}),
    Told("rounded to 1", {"kind": "rounded", "step": 1.0}),
    Told("log-probabilities", {"kind": "log_probabilities"}),
    Told("top 5", {"kind": "top_k", "k": 5}),
    Told("label", {"kind": "label"}),
)
COLUMNS = {
    "told": "told",
    "shots": "shots",
    "zero_shot": "zero-shot, %|.2f",
    "adapted": "adapted, %|.2f",
    "deviation": "deviation|.2f",
    "queries": "queries|,",
}


def key(server: Server, output: dict[str, object]) -> str:
    """One that is told this much."""
    flags = ("--owner=bench", f"--queries={PLENTY}", "--json")
    policy = json.dumps({"output": output})
    made = server.command("keys", "create", *flags, "--policy", policy)
    return str(json.loads(made)["key"])


def fit(run: Path, *flags: str) -> tuple[Row | None, str]:
    """The content of result.json, or why there is none."""
    command: list[str | Path] = [
        TUNER,
        "fit",
        "--data=digits",
        "--preset=digits",
        f"--run={run}",
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1]
    found: Row = json.loads((run / "result.json").read_text())
    return found, ""


def row(told: Told, shots: int, results: list[Row]) -> Row:
    """Mean and deviation over seeds."""
    accuracies = {
        way: [100 * float(result["evaluation"][way]["accuracy"]) for result in results]
        for way in ("zero_shot", "adapted")
    }
    adapted = accuracies["adapted"]
    return {
        "told": told.name,
        "shots": shots,
        "zero_shot": statistics.mean(accuracies["zero_shot"]),
        "adapted": statistics.mean(adapted),
        "deviation": statistics.stdev(adapted) if len(adapted) > 1 else 0.0,
        "queries": results[0]["spent_total"]["queries"],
    }


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, method="auto", shots=[16, 4, 1], seeds=[1, 2, 3])
    about, rows, refused = describe(), list[Row](), dict[str, str]()
    print_heading(
        f"Keys that are told less: {options.method} on digits, seeds {options.seeds}", about
    )
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "server") as server:
        for told in KINDS:
            access = (f"--server={server.url}", f"--key={key(server, told.output)}", *told.flags)
            for shots in options.shots:
                results = []
                for seed in options.seeds:
                    run = Path(name) / f"{told.name}-{shots}-{seed}"
                    flags = (f"--method={options.method}", f"--shots={shots}", f"--seed={seed}")
                    result, why = fit(run, *flags, *access)
                    if result is None:
                        refused[told.name] = why
                    else:
                        results.append(result)
                if results:
                    rows.append(row(told, shots, results))
                    print(
                        f"{told.name}, {shots} shots: {rows[-1]['adapted']:.2f} %", file=sys.stderr
                    )
    print_table(rows, COLUMNS)
    for told_name, why in refused.items():
        print(f"{told_name}: refused, {why}")
    write_json(options.json, about, rows=rows, refused=refused)
    below = [
        f"{r['told']}, {r['shots']} shots: {r['adapted']:.2f}, zero-shot {r['zero_shot']:.2f}"
        for r in rows
        if r["adapted"] < r["zero_shot"] - MOST_BELOW
    ]
    raise SystemExit("\n".join(below) or None)


if __name__ == "__main__":
    main()
