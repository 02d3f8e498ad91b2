"""`craft-tuner doctor`: the options of `fit`, and a line for each check.

Thin, as `main.py` is. Nothing is spent, uploaded or written.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from craft_tuner.cli.options import (
    AllowOutside,
    AsJson,
    Assignments,
    Budget,
    ClassNames,
    ConfigFile,
    Key,
    Model,
    Server,
    Shots,
    Timeout,
    extra,
)
from craft_tuner.cli.output import give, give_json, say
from craft_tuner.config.settings import parse_assignments
from craft_tuner.errors import CraftTunerError

EXAMPLES = """\b
Examples:
  craft-tuner doctor
  craft-tuner doctor --data photos/ --shots 8 --budget 4000
  craft-tuner doctor --data photos/ --config craft.toml --run runs/first --json

\b
Exit codes:
  0 nothing is in the way of a fit; a warn is worth reading
  1 at least one check says fail
  2 flags
"""


def doctor(
    context: typer.Context,
    *,
    data: Annotated[str | None, typer.Option(help="What --data of `fit` takes")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of a dataset of the paper")] = None,
    method: Annotated[str | None, typer.Option(help="Method to plan for")] = None,
    paper_exact: Annotated[
        bool, typer.Option("--paper-exact", help="As the paper's code where a black box permits")
    ] = False,
    shots: Shots = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random")] = None,
    budget: Budget = None,
    assignments: Assignments = None,
    run: Annotated[Path | None, typer.Option(help="Directory that the run would get")] = None,
    class_names: ClassNames = None,
    allow_outside: AllowOutside = None,
    track: Annotated[
        str | None, typer.Option(help="Tracker that the fit would tell [CRAFT_TRACK]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Open no image: no damage or doubles found")
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Try everything between you and a fit, and say what to do; spends and writes nothing.

    Takes the options of `fit`. Looked at are packages, settings, address, proxy, certificates, the
    server's answer, clock and readiness, the key's end, rights and budget, the line, the data, the
    plan, the run's directory and its disk.
    """
    from craft_tuner.commands.doctor.diagnose import Asked, diagnose
    from craft_tuner.commands.doctor.sheet import Line, Sheet

    given = {"preset": preset, "method": method, "shots": shots, "seed": seed, "budget": budget}
    fit_flags: dict[str, Any] = {
        **parse_assignments(assignments or []),
        **extra(context.args, command="doctor"),
        **{name: value for name, value in given.items() if value is not None},
        **({"paper_exact": True} if paper_exact else {}),
    }
    flags = {
        "server": server,
        "key": key,
        "model": model,
        "timeout_s": timeout,
        "track": track,
        "allow_outside": allow_outside or None,
    }
    asked = Asked(
        environ=os.environ,
        flags=flags,
        fit_flags=fit_flags,
        config=config,
        data=data,
        class_names=class_names,
        run=run,
        opened=not quick,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def show(line: Line) -> None:
        if not as_json:
            give(line.text(width))

    sheet = Sheet(show)
    diagnose(asked, sheet)
    if as_json:
        give_json(json.dumps([line.model_dump() for line in sheet.lines], ensure_ascii=False))
    failures = sheet.count("fail")
    say(f"{len(sheet.lines)} findings: {failures} fail, {sheet.count('warn')} warn")
    raise typer.Exit(CraftTunerError.exit_code if failures else 0)
