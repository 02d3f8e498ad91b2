"""What every benchmark says of the machine, and how it measures time, memory and prints tables.

Knows no model and no server: each script owns what it measures.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "open_clip_torch", "numpy", "cma", "fastapi", "uvicorn", "httpx")

Row = dict[str, Any]


def describe() -> Row:
    """Machine, date, versions and threads, as a benchmark's JSON begins."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def print_heading(title: str, about: Row) -> None:
    """A heading in Markdown: what is measured, where, with what."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(
        f"\n## {title}\n\n{about['date'][:10]}, {about['machine']} ({about['processor']}), "
        f"{about['cores']} cores, load {about['load_average']} at the start, "
        f"Python {about['python']}, {versions}\n",
        flush=True,
    )


def print_table(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """A table in Markdown; `columns` maps a row's key to "heading" or "heading|format"."""
    heads = [(key, *_head(column)) for key, column in columns.items()]
    print(f"| {' | '.join(head for _, head, _ in heads)} |")
    print(f"|{' --- |' * len(heads)}")
    for row in rows:
        cells = (_cell(row.get(key), form) for key, _, form in heads)
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def options_of(doc: str | None, **defaults: float | str | list[int]) -> argparse.Namespace:
    """Parse the command line: one option per default, of its type, and `--json FILE`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        elif isinstance(default, list):
            parser.add_argument(flag, type=int, nargs="+", default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args()


def write_json(file: Path | None, about: Row, **results: Any) -> None:
    """Write a benchmark's figures, if a file is wanted."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"about": about, **results}, indent=2) + "\n")


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `repeats` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y over x; 0 for fewer than two points."""
    return statistics.linear_regression(x, y).slope if len(set(x)) > 1 else 0.0


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process so far, in MB (VmHWM)."""
    return _status_mb(pid, "VmHWM")


def resident_mb(pid: int) -> float:
    """Resident memory of a process now, in MB (VmRSS)."""
    return _status_mb(pid, "VmRSS")


def measured(command: Sequence[object], log: Path, **environment: str) -> tuple[float, float]:
    """Run a program to its end: wall time in seconds, peak resident memory in MB (ru_maxrss).

    The kernel counts from the fork on, so the caller has to be smaller than what it measures.

    Raises:
        SystemExit: it failed; the end of its output is shown.
    """
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{command[:2]} ended with {process.returncode}:\n{said}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e6


def own_peak_mb() -> float:
    """Peak resident memory of this process since its start, or since `reset_own_peak`, in MB."""
    return peak_mb(os.getpid())


def own_resident_mb() -> float:
    """Resident memory of this process now, in MB."""
    return resident_mb(os.getpid())


def reset_own_peak() -> None:
    """Let the peak begin anew at what is resident now (Linux: clear_refs 5)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} has no {name}; is it still running?")


def _head(column: str) -> tuple[str, str]:
    head, _, form = column.partition("|")
    return head, form


def _cell(value: object, form: str) -> str:
    return "-" if value is None else format(value, form)


def _processor() -> str:
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
