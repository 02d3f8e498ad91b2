"""Measure the server's CUDA path within eight minutes, on a bare machine without network.

    python3 benchmarks/gpu/check.py --wheels gpu-wheels --json gpu.json      on a GPU machine
    python3 benchmarks/gpu/check.py --device cpu --small                     the rehearsal

This file needs the standard library alone. It unpacks what the machine lacks into a folder that is
removed at the end, puts that and the project's programs where Python and the shell find them, and
runs gpu/main.py, which measures. It ends everything when the time is over.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 20.0
"""Beyond the budget, for the start and the end."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder of `make gpu-wheels`")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="a rehearsal of two minutes at most")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all sections")
    parser.add_argument("--only", nargs="+", help="names of sections")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args()


def prepared(wheels: Path | None, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Environment of the measuring process, and what is wrong with the wheels.

    Raises:
        SystemExit: there are no wheels.
    """
    from benchmarks.gpu.unpack import NoWheelsError, stale, unpack  # noqa: PLC0415 - the path is set below

    paths, faults = [str(ROOT)], []
    environment = dict(os.environ)
    if wheels is not None:
        try:
            done = unpack(wheels, folder)
        except NoWheelsError as error:
            raise SystemExit(f"gpu-check: {error}") from error
        paths.insert(0, str(done.site))
        environment["PATH"] = f"{done.programs}{os.pathsep}{environment.get('PATH', '')}"
        old = stale(done.site, ROOT.parent)
        faults = [*done.faults, old] if old else done.faults
        print(f"unpacked: {', '.join(done.used) or 'nothing'}", flush=True)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join(paths + ([inherited] if inherited else []))
    return environment, faults


def measure(options: argparse.Namespace, environment: dict[str, str], faults: list[str]) -> int:
    """Run the measuring process and everything that it starts, for so long and no longer."""
    command = [sys.executable, "-m", "benchmarks.gpu.main", "--device", options.device]
    command += ["--budget", str(options.budget)]
    command += ["--small"] if options.small else []
    command += ["--json", str(options.json.resolve())] if options.json else []
    command += ["--only", *options.only] if options.only else []
    command += [word for fault in faults for word in ("--fault", fault)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(options.budget + GRACE_S)
    except subprocess.TimeoutExpired:
        print(f"gpu-check: ended after {options.budget + GRACE_S:.0f} s", file=sys.stderr)
        return 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Prepare, measure, clean up."""
    options = parse()
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        environment, faults = prepared(options.wheels, Path(folder))
        for fault in faults:
            print(f"gpu-check: {fault}", file=sys.stderr, flush=True)
        code = measure(options, environment, faults)
    sys.exit(code)


if __name__ == "__main__":
    main()
