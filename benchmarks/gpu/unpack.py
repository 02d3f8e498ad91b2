"""Put wheels where a machine without pip and without an index can import them.

Unpacked is only what the machine lacks, or has in a version that something unpacked cannot use:
what is there stays together with what it was installed with. Knows nothing of CUDA, nor of this
project but its name. Imports the standard library and `packaging`, which it takes from the wheels
where the machine has none.
"""

import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "craft-blackbox"
EXTRAS = ("server", "tuner")
_FOLDERS = {"craft_server": "server", "craft_tuner": "tuner", "craft_shared": "shared"}
_Demand = tuple[str, str, Any]
"""Who asks, for what, in which versions."""

_SCRIPT = """#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


@dataclass(frozen=True)
class Wheel:
    """A wheel that suits this interpreter."""

    path: Path
    name: str
    version: str
    needs: "tuple[Requirement, ...]"


@dataclass
class Unpacked:
    """What came of it.

    Attributes:
        site: folder of the modules.
        programs: folder of the console scripts.
        used: what was unpacked, "name version".
        faults: what does not fit, a sentence each.
    """

    site: Path
    programs: Path
    used: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class NoWheelsError(Exception):
    """There is nothing to unpack."""


def unpack(wheels: Path, into: Path) -> Unpacked:
    """Unpack a folder of wheels into another.

    Raises:
        NoWheelsError: the folder holds none.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise NoWheelsError(f"{wheels} holds no wheels; make gpu-wheels collects them")
    _find_packaging(files)
    done = Unpacked(into / "site", into / "programs")
    carried = {wheel.name: wheel for wheel in _suitable(files, done.faults)}
    kept = _kept(carried)
    done.faults += _unmet(carried, kept)
    for wheel in carried.values():
        if wheel.name not in kept:
            with zipfile.ZipFile(wheel.path) as content:
                content.extractall(done.site)
            done.used.append(f"{wheel.name} {wheel.version}")
    _write_programs(done)
    return done


def _find_packaging(files: list[Path]) -> None:
    """A pure wheel can be imported as it is."""
    try:
        metadata.version("packaging")
    except metadata.PackageNotFoundError:
        sys.path += [str(file) for file in files if file.name.startswith("packaging-")]


def _suitable(files: list[Path], faults: list[str]) -> Iterator[Wheel]:
    from packaging.tags import sys_tags  # noqa: PLC0415 - it may come from a wheel
    from packaging.utils import (  # noqa: PLC0415 - likewise
        InvalidWheelFilename,
        parse_wheel_filename,
    )

    ours = list(sys_tags())
    for file in files:
        try:
            name, version, _, tags = parse_wheel_filename(file.name)
            if tags.isdisjoint(ours):
                faults.append(_wrong_platform(file, ours[0]))
                continue
            yield Wheel(file, name, str(version), tuple(_needs(file, name)))
        except (InvalidWheelFilename, zipfile.BadZipFile, OSError) as error:
            faults.append(f"{file.name} is no wheel that can be read ({error}): make gpu-wheels")


def _wrong_platform(file: Path, ours: Any) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{file.name} does not suit this interpreter, Python {version} for {ours.platform}: "
        "run the check with the Python that the wheels were collected for, or collect others"
    )


def _needs(file: Path, name: str) -> Iterator[Any]:
    """What a wheel asks for."""
    with zipfile.ZipFile(file) as content:
        [about] = [n for n in content.namelist() if n.endswith(".dist-info/METADATA")]
        lines = HeaderParser().parsestr(content.read(about).decode()).get_all("Requires-Dist", [])
    return _asked(lines, EXTRAS if name == PROJECT else ())


def _asked(lines: Iterable[str], extras: Sequence[str] = ()) -> Iterator[Any]:
    """Requirements that hold for this interpreter."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - it may come from a wheel

    for need in map(Requirement, lines):
        if need.marker is None or any(
            need.marker.evaluate({"extra": one}) for one in ("", *extras)
        ):
            yield need


def _demands(
    carried: Mapping[str, Wheel], kept: AbstractSet[str]
) -> Iterator[tuple[str, str, Any]]:
    """Of wheels that are to be unpacked, and of what is kept instead."""
    from packaging.utils import canonicalize_name  # noqa: PLC0415 - it may come from a wheel

    for name, wheel in carried.items():
        needs = _asked(metadata.requires(name) or []) if name in kept else wheel.needs
        for need in needs:
            yield name, canonicalize_name(need.name), need.specifier


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _kept(carried: Mapping[str, Wheel]) -> set[str]:
    """Carried distributions that the machine has in a version that all others can use.

    The project itself is never among them. Giving one up may be the end of another.
    """
    kept = {name for name in carried if name != PROJECT and _installed(name)}
    while True:
        unfit = {
            name
            for _, name, versions in _demands(carried, kept)
            if name in kept and not versions.contains(_installed(name), prereleases=True)
        }
        if not unfit:
            return kept
        kept -= unfit


def _unmet(carried: Mapping[str, Wheel], kept: AbstractSet[str]) -> list[str]:
    """A sentence for each requirement that neither the machine nor a wheel meets."""
    faults = []
    for who, name, versions in _demands(carried, kept):
        unpacked = name in carried and name not in kept
        version = carried[name].version if unpacked else _installed(name)
        if version is None:
            faults.append(f"{name} is neither here nor among the wheels, and {who} needs it")
        elif not versions.contains(version, prereleases=True):
            faults.append(f"{name} {version} is here, and {who} needs {name}{versions}")
    return faults


def stale(site: Path, tree: Path) -> str | None:
    """Is what was unpacked of the project other code than the tree's? Then the wheel is old."""
    for package, folder in _FOLDERS.items():
        for file in sorted((site / package).rglob("*.py")):
            here = tree / folder / file.relative_to(site)
            if here.parent.is_dir() and (
                not here.is_file() or here.read_bytes() != file.read_bytes()
            ):
                return (
                    f"the project's wheel is not of this tree ({file.relative_to(site)} differs): "
                    "make gpu-wheels anew"
                )
    return None


def _write_programs(done: Unpacked) -> None:
    """The project's console scripts, by its own list of them."""
    done.programs.mkdir(parents=True, exist_ok=True)
    found = metadata.distributions(path=[str(done.site)])
    points = [point for each in found if each.name == PROJECT for point in each.entry_points]
    for point in points:
        if point.group == "console_scripts":
            script = done.programs / point.name
            text = _SCRIPT.format(python=sys.executable, module=point.module, function=point.attr)
            script.write_text(text)
            script.chmod(0o755)
