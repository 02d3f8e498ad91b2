"""What this machine brings: packages, threads, and a place for the run."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from rich.filesize import decimal

from craft_tuner.commands.doctor.sheet import Sheet
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import RunError, disk_errors_as
from craft_tuner.plan import Plan
from craft_tuner.runs.place import nearest
from craft_tuner.runs.provenance import versions
from craft_tuner.runs.run import examine

_DISTRIBUTION = "craft-blackbox"
_INSTALL = f"pip install -U '{_DISTRIBUTION}[tuner]'"
_NEEDED = re.compile(r"""([\w.-]+)>=([\d.]+)(?:; extra == ['"]tuner['"])?""")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_RUN_BYTES = 32 * 2**20
"""What a run's state, adapter and page take, each written whole before the last one goes."""
_LINE_BYTES = 256
"""What a call and an answer take in a run's tables."""


def check_packages(sheet: Sheet) -> None:
    """The packages that the tuner needs, each as new as it has to be."""
    wrong = list(_wrong_packages())
    for says in wrong:
        sheet.add("fail", "packages", says, _INSTALL)
    if not wrong:
        found = versions()
        sheet.add(
            "ok", "packages", "packages: " + ", ".join(f"{name} {found[name]}" for name in found)
        )


def _wrong_packages() -> Iterator[str]:
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        needed = _NEEDED.fullmatch(requirement)
        if needed is None:
            continue
        name, least = needed.groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed, {least} or later is needed"
            continue
        if _numbers(version) < _numbers(least):
            yield f"{name} {version} is too old, {least} or later is needed"


def _numbers(version: str) -> list[int]:
    """The release of a version: "2.10.0+cpu" is [2, 10, 0]."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]


def check_threads(sheet: Sheet, environ: Mapping[str, str]) -> None:
    """How many cores there are, and whether the libraries that use them can read how many."""
    wrong = [name for name in _THREADS if not re.fullmatch(r"|[1-9]\d{0,3}", environ.get(name, ""))]
    for name in wrong:
        sheet.add(
            "warn",
            "threads",
            f"{name}={environ[name]!r} is no number of threads",
            "give 1 or more, or unset it",
        )
    if not wrong:
        sheet.add("ok", "threads", f"{os.cpu_count() or 1} cores, numpy and the head use one")


def check_place(sheet: Sheet, where: Path, config: FitConfig) -> None:
    """Whether a run can be made there."""
    with sheet.trying("run"):
        examine(where, config)
        sheet.add("ok", "run", f"the run {where} can be made")


def check_disk(sheet: Sheet, where: Path, plan: Plan) -> None:
    """Whether what a plan leaves behind has room there."""
    answers = sum(phase.cost.logit_vectors for phase in plan.phases if phase.purpose == "test")
    needs = _RUN_BYTES + _LINE_BYTES * (plan.total.calls + answers)
    with sheet.trying("disk"), disk_errors_as(RunError, f"cannot look at the disk of {where}"):
        free = shutil.disk_usage(nearest(where)).free
        room = f"{decimal(free)} free for the run, which takes {decimal(needs)} at most"
        if free < needs:
            raise RunError(f"{room}; make room, or choose another place with --run")
        sheet.add("ok", "disk", room)
