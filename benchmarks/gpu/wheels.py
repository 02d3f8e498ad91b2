"""Collect the wheels that a bare GPU machine lacks into one small folder.

    python -m benchmarks.gpu.wheels [--out gpu-wheels]

The machine has no network and no package index: Python 3.12, torch with CUDA, and what `HAS` lists.
What `craft-blackbox[server,tuner]` needs beside that is downloaded at the versions of
constraints.txt, as wheels for CPython 3.12 on x86-64 Linux, and this project's own wheel is built.
Exits 1 if they take more than 50 MiB together: the folder has to travel with the working tree.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = "craft-blackbox"
EXTRAS = ("server", "tuner")
MOST_MIB = 50
PYTHON = "312"

HAS = {
    "the machine is promised to have them": (
        "torch torchvision transformers numpy scipy scikit-learn pillow httpx rich safetensors timm"
    ),
    "torch needs them": "filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy",
    "scikit-learn needs them": "joblib narwhals threadpoolctl",
    "httpx needs them": "certifi h11 httpcore idna",
    "rich and typer need them": "markdown-it-py mdurl pygments shellingham",
    "transformers and timm need them": "huggingface-hub pyyaml tqdm",
}
"""What is not carried, and why it is there."""

CARRIED_ANYWAY = ("anyio", "click", "packaging", "typer", "typing-extensions")
"""Small, certain to be there, but perhaps in a version too old for what is carried."""

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
"""What glibc 2.28 takes; pip compares names, so older ones are named one by one."""

TARGET = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
}
"""For which environment requirements are read."""


def there() -> set[str]:
    """All distributions that are not carried."""
    return {name for names in HAS.values() for name in names.split()}


def needed() -> list[str]:
    """Distributions that the project needs and the machine lacks, without the project itself.

    Raises:
        SystemExit: one is not installed here, so what it needs is not known.
    """
    present, found = there(), set(CARRIED_ANYWAY)
    waiting: list[tuple[str, tuple[str, ...]]] = [(PROJECT, EXTRAS)]
    waiting += [(name, ()) for name in CARRIED_ANYWAY]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if name in present or (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        waiting += _requirements(name, extras)
    return sorted(found - {PROJECT})


def _requirements(name: str, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        raise SystemExit(
            f"gpu-wheels: {name} is needed there and is not installed here: make install"
        ) from None
    for line in lines:
        need = Requirement(line)
        where = [TARGET | {"extra": extra} for extra in ("", *extras)]
        if need.marker is None or any(need.marker.evaluate(each) for each in where):
            yield canonicalize_name(need.name), tuple(sorted(need.extras))


def pins(file: Path) -> dict[str, str]:
    """Distribution -> "name==version" of a file of constraints."""
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    pairs = [line.partition("==") for line in lines if "==" in line]
    return {canonicalize_name(name): f"{name}=={version}" for name, _, version in pairs}


def pinned(names: list[str], file: Path) -> list[str]:
    """The names with their versions.

    Raises:
        SystemExit: a name has none.
    """
    known = pins(file)
    if missing := [name for name in names if name not in known]:
        raise SystemExit(f"gpu-wheels: no version in {file.name} for {', '.join(missing)}")
    return [known[name] for name in names]


def collect(out: Path) -> list[Path]:
    """Fill the folder anew; the wheels in it."""
    wanted = pinned(needed(), ROOT / "constraints.txt")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    target += [f"--platform={name}" for name in PLATFORMS]
    _call([*pip, "download", "--no-deps", *target, f"--dest={out}", *wanted])
    own = ["--no-deps", "--no-build-isolation", f"--wheel-dir={out}", str(ROOT)]
    _call([*pip, "wheel", *own])
    return sorted(out.glob("*.whl"))


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SystemExit(f"gpu-wheels: pip failed: {said[-1] if said else done.returncode}")


def report(wheels: list[Path], most_mib: float = MOST_MIB) -> str | None:
    """Print each size and the total; a sentence if that is too much."""
    sizes = {wheel.name: wheel.stat().st_size for wheel in wheels}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values()) / 2**20
    print(f"{total:8.2f} MiB  in all, {len(wheels)} wheels")
    if total > most_mib:
        return f"gpu-wheels: {total:.1f} MiB are more than the {most_mib:g} MiB that may travel"
    return None


def main() -> None:
    """Collect and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-wheels")
    sys.exit(report(collect(parser.parse_args().out)))


if __name__ == "__main__":
    main()
