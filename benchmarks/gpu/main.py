"""The measuring process of check.py: which sections there are, in the order of their worth.

Imports what sections need once, and never touches CUDA: sections are forked from it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from craft_server import environment

environment.tell()
os.environ.setdefault("PYTHONWARNINGS", "ignore")

from machine import describe, print_heading  # noqa: E402

from gpu import (  # noqa: E402 - torch reads the environment when it is imported
    card,
    exactness,
    exhausted,
    leaks,
    pictures,
    served,
    speed,
    variants,
)
from gpu.record import Record, exit_code  # noqa: E402
from gpu.runner import Scene, Section, run_all  # noqa: E402

SECTIONS = (
    card.SECTION,
    exactness.SECTION,
    speed.SECTION,
    exhausted.SECTION,
    served.FIT,
    pictures.SECTION,
    variants.SECTION,
    served.AT_ONCE,
    leaks.SECTION,
)


def parse() -> argparse.Namespace:
    """What check.py passes on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--budget", type=float, default=480.0)
    parser.add_argument("--only", nargs="+", choices=[section.name for section in SECTIONS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fault", action="append", default=[])
    return parser.parse_args()


def chosen(only: list[str] | None) -> list[Section]:
    """The sections asked for; the card comes first in any case, it says whether there is one."""
    return [section for section in SECTIONS if not only or section.name in (*only, "card")]


def main() -> None:
    """Run all sections and say in short what came of each."""
    options = parse()
    about = describe() | {
        "device": options.device,
        "small": options.small,
        "wheels_at_fault": options.fault,
    }
    print_heading(f"GPU check on {options.device}{', rehearsal' * options.small}", about)
    record = Record(options.json, about)
    record.write()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(options.device, options.small, Path(folder))
        sections = chosen(options.only)
        results = run_all(sections, scene, record.tell, budget_s=options.budget)
    record.summary()
    sys.exit(exit_code(results, options.fault))


if __name__ == "__main__":
    main()
