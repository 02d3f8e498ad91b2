"""CraFT on handwritten digits with seeds 1, 2 and 3: the demo three times, and their mean.

    python -m benchmarks demo-seeds [--seeds 1 2 3] [--least-gain 10] [--json FILE]

Each run is `craft-tuner demo`: its own server process, key and ledger. Exits 1 if the mean gain
over zero-shot is below `--least-gain` points, so CI notices when the method stops working.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common.machine import describe, options_of, write_json
from benchmarks.common.programs import TUNER

WAYS = {"zero_shot": "zero-shot", "prompt_only": "prompt only", "adapted": "CraFT"}


def demo(seed: int, folder: Path) -> dict[str, Any]:
    """Run the demo with a seed; returns the evaluation in its result.json."""
    out = folder / f"seed{seed}"
    subprocess.run([TUNER, "demo", "--seed", str(seed), "--out", out], check=True)
    found: dict[str, Any] = json.loads((out / "run" / "result.json").read_text())
    evaluation: dict[str, Any] = found["evaluation"]
    return evaluation


def points(result: dict[str, Any], way: str) -> float:
    """Accuracy in per cent."""
    return 100 * float(result[way]["accuracy"])


def main() -> None:
    """Run and print a table in Markdown."""
    options, about = options_of(__doc__, seeds=[1, 2, 3], least_gain=10.0), describe()
    with tempfile.TemporaryDirectory() as folder:
        results = [demo(seed, Path(folder)) for seed in options.seeds]
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {version('torch')}, cma {version('cma')}; 16 shots, 8,000 queries\n"
    )
    print(f"| | {' | '.join(f'seed {seed}' for seed in options.seeds)} | mean | deviation |")
    print("| --- " * (len(options.seeds) + 3) + "|")
    means = {}
    for way, name in WAYS.items():
        values = [points(result, way) for result in results]
        means[way] = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {row} | {means[way]:.2f} | {spread:.2f} |")
    gain = means["adapted"] - means["zero_shot"]
    print(f"\nCraFT is {gain:.2f} points above zero-shot (at least {options.least_gain:g} wanted)")
    write_json(options.json, about, seeds=options.seeds, evaluations=results, mean=means, gain=gain)
    sys.exit(gain < options.least_gain)


if __name__ == "__main__":
    main()
