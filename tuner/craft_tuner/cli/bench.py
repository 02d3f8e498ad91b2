"""The command line of `craft-tuner bench`: options in, a table out. Thin, as `main.py` is."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from craft_tuner.cli.options import (
    AllowOutside,
    Assignments,
    ConfigFile,
    Key,
    Model,
    Server,
    Timeout,
    Validation,
)
from craft_tuner.cli.options import sources as gather_sources
from craft_tuner.cli.output import give
from craft_tuner.config.settings import parse_assignments

EXAMPLES = """\b
Examples:
  craft-tuner bench --data digits --start-server --out bench/digits
  craft-tuner bench --data coop:dtd@/data --data coop:eurosat@/data --out bench/two --jobs 8
  craft-tuner bench --data photos/ --shots 16,1 --seeds 1 --methods zero_shot,bbt,craft
  craft-tuner bench --data digits --shots 16 --methods craft --budgets 500,2000,8000 --dry-run
  craft-tuner bench --data /shared/photos --out /shared/bench --engine ray --ray-address auto

\b
The same command goes on where an earlier one stopped, with more shots, seeds or methods too.

\b
Exit codes: those of craft-tuner; 1 where a cell failed, 130 after Ctrl-C.
"""


def bench(
    *,
    data: Annotated[
        list[str], typer.Option(help="Dataset, as `craft-tuner fit --data` has it; repeatable")
    ],
    shots: Annotated[
        str, typer.Option(help="Training images per class: numbers, 'up to 16', all; with commas")
    ] = "16,8,4,2,1",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas")] = "1,2,3",
    methods: Annotated[str, typer.Option(help="Names of methods, with commas, or `all`")] = "all",
    budgets: Annotated[
        str, typer.Option(help="Queries of each run, with commas; default: the paper's")
    ] = "",
    preset: Annotated[
        str, typer.Option(help="Settings to start from; `auto`: the paper's, for coop:NAME@ROOT")
    ] = "auto",
    validation: Validation = None,
    assignments: Assignments = None,
    allow_outside: AllowOutside = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the bench, new or to go on with; default: bench/DATA"),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Cells at a time on this machine", min=1)] = 2,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or Ray")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else one is started here")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cells again that failed")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would spend, and stop")
    ] = False,
    start_server: Annotated[
        bool,
        typer.Option("--start-server", help="Start a server here with a key that covers the cells"),
    ] = False,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Run datasets x shots x seeds x methods and print the table of their accuracies and costs.

    Each is a run of its own below --out. What all cost is said, or refused, before the first query.
    """
    from craft_tuner.bench import bench as use_case
    from craft_tuner.bench import grid as axes
    from craft_tuner.bench.local import LocalEngine
    from craft_tuner.bench.on_ray import RayEngine
    from craft_tuner.data.sources import title

    environ = dict(os.environ)
    if start_server:
        environ.pop("CRAFT_SERVER_URL", None)
    sources = gather_sources(
        config,
        environ=environ,
        server=server,
        key=key,
        model=model,
        timeout_s=timeout,
        allow_outside=allow_outside,
    )
    request = use_case.BenchRequest(
        grid=axes.Grid(
            data=tuple(data),
            shots=axes.parse_shots(shots),
            seeds=axes.parse_numbers(seeds, option="--seeds"),
            methods=axes.parse_methods(methods),
            budgets=axes.parse_numbers(budgets, option="--budgets"),
            preset=preset,
            settings={
                **sources.fit,
                **parse_assignments(assignments or []),
                **({} if validation is None else {"validation": validation}),
            },
        ),
        out=out or Path("bench") / "-".join(map(title, data)),
        engine=LocalEngine(jobs) if engine == "local" else RayEngine(jobs, ray_address),
        retry_failed=retry_failed,
        dry_run=dry_run,
        start_server=start_server,
    )
    give(use_case.bench(request, sources.settings), end="")
