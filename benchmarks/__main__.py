"""Lists what is measured, or runs it.

python -m benchmarks                     what there is
python -m benchmarks NAME [options]      one benchmark; figures in bench/NAME.json
python -m benchmarks GROUP               all of a group, one after the other
"""

import difflib
import importlib
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.catalog import BENCHMARKS, GROUPS, Benchmark
from benchmarks.common.programs import environment, module

USAGE = """\
python -m benchmarks NAME [options]    one of these; `NAME --help` lists its options
python -m benchmarks GROUP             a group, one after the other, but for those marked *
Figures go to bench/NAME.json, or where --json FILE says."""


def listing() -> str:
    """All benchmarks, their typical times and what they are, by group."""
    lines = [USAGE]
    for group, benchmarks in GROUPS.items():
        lines += ["", group]
        lines += [
            f"  {each.name + ('' if each.in_group else '*'):16} {each.time:13} "
            f"{' '.join([each.summary, *each.options])}"
            for each in benchmarks
        ]
    return "\n".join(lines)


def arguments_of(benchmark: Benchmark, options: Sequence[str]) -> list[str]:
    """What a benchmark's `main` is to find in `sys.argv`; `--json` has a default."""
    given = [*benchmark.options, *options]
    wanted = any(each == "--json" or each.startswith("--json=") for each in options)
    if benchmark.writes_json and not wanted:
        given += ["--json", f"bench/{benchmark.name}.json"]
    return [f"python -m benchmarks {benchmark.name}", *given]


def run(benchmark: Benchmark, options: Sequence[str]) -> None:
    """Run one in this process."""
    sys.argv = arguments_of(benchmark, options)
    importlib.import_module(benchmark.module).main()


def run_group(benchmarks: Sequence[Benchmark]) -> None:
    """Run those of a group in a process each.

    Raises:
        SystemExit: one failed, with its exit code; the others are left out.
    """
    for each in benchmarks:
        if each.in_group:
            done = subprocess.run(module("benchmarks", each.name), check=False, env=environment())
            if done.returncode:
                print(f"{each.name} ended with {done.returncode}", file=sys.stderr)
                raise SystemExit(done.returncode)


def refusal(name: str) -> str:
    """Says that there is no such benchmark, and which are named alike."""
    near = difflib.get_close_matches(name, [*BENCHMARKS, *GROUPS])
    hint = f"did you mean {' or '.join(near)}?" if near else "`python -m benchmarks` lists them"
    return f"no benchmark is named {name!r}; {hint}"


def main() -> None:
    """List, or run what the command line names."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in {"-h", "--help"}:
        print(listing())
    elif name in BENCHMARKS:
        run(BENCHMARKS[name], options)
    elif name in GROUPS and not options:
        run_group(GROUPS[name])
    elif name in GROUPS:
        raise SystemExit(f"the group {name} takes no options; its benchmarks do, one by one")
    else:
        raise SystemExit(refusal(name))


if __name__ == "__main__":
    main()
