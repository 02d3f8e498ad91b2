"""The measuring process of check.py: which sections there are, in the order of their worth.

Imports what sections need once, and never touches CUDA: sections are forked from it.
"""

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from craft_server import runtime

runtime.configure_libraries()

from benchmarks.common.machine import describe, print_heading  # noqa: E402 - after the settings
from benchmarks.gpu.record import Record, exit_code  # noqa: E402
from benchmarks.gpu.runner import Say, Scene, Section, SectionError, run_all, sentence_of  # noqa: E402

SECTIONS = {
    "card": "benchmarks.gpu.card:SECTION",
    "exactness": "benchmarks.gpu.exactness:SECTION",
    "speed": "benchmarks.gpu.speed:SECTION",
    "memory": "benchmarks.gpu.exhausted:SECTION",
    "fit": "benchmarks.gpu.served:FIT",
    "images": "benchmarks.gpu.pictures:SECTION",
    "variants": "benchmarks.gpu.variants:SECTION",
    "tuners": "benchmarks.gpu.served:AT_ONCE",
    "leaks": "benchmarks.gpu.leaks:SECTION",
}
"""By worth. Each is imported for itself: a package that is missing takes no other with it."""


def find(name: str) -> Section:
    """A section; one that cannot be imported fails with the reason when it is run."""
    module, _, attribute = SECTIONS[name].partition(":")
    try:
        found: Section = getattr(import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - of whatever kind, it is the section's own
        said = f"{module} cannot be imported here ({sentence_of(error)})"

        def fail(_: Scene, __: Say) -> None:
            raise SectionError(said)

        return Section(name, name.capitalize(), fail, {}, least_s=0, needs_device=False)
    return found


def parse() -> argparse.Namespace:
    """What check.py passes on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--budget", type=float, default=480.0)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fault", action="append", default=[])
    return parser.parse_args()


def chosen(only: list[str] | None) -> list[Section]:
    """The sections asked for; the card comes first in any case, it says whether there is one."""
    return [find(name) for name in SECTIONS if not only or name in (*only, "card")]


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
