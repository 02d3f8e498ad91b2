"""What is kept of a check: tables on standard output, and a JSON file, whole after each section."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.machine import print_table
from benchmarks.gpu.runner import DONE, FAILED, Result, Section

SUMMARY = {"name": "section", "status": "came to", "seconds": "s|.1f", "why": "because"}


class Record:
    """Writes down each section as it ends."""

    def __init__(self, file: Path | None, about: dict[str, Any]) -> None:
        self._file = file
        self.about = about
        self.results: list[Result] = []

    def tell(self, section: Section, result: Result) -> None:
        """Print a section and write the file anew."""
        self.results.append(result)
        print(f"\n### {result.title}\n", flush=True)
        rows = [row for row in result.rows if "said" not in row]
        if rows:
            print_table(rows, section.columns)
        for row in result.rows:
            if "said" in row:
                print(row["said"])
        if result.status != DONE:
            print(f"{result.status}: {result.why}", flush=True)
        self.write()

    def write(self) -> None:
        """Replace the file in one step, so that a cut-off run leaves a whole one."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        content = {"about": self.about, "sections": [asdict(each) for each in self.results]}
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(json.dumps(content, indent=2, default=str) + "\n")
        os.replace(fresh, self._file)  # noqa: PTH105 - atomic, and says so

    def summary(self) -> None:
        """Print one line a section."""
        print("\n### In short\n")
        print_table([asdict(each) for each in self.results], SUMMARY)


def exit_code(results: Sequence[Result], faults: Sequence[str]) -> int:
    """0: all was run or left out for time; 1: something failed; 2: no device, or faulty wheels."""
    no_device = any("no_device" in row for result in results for row in result.rows)
    if no_device or faults:
        return 2
    return int(any(result.status == FAILED for result in results))
