"""The command line below `craft-tuner data`: look at a dataset before a query is bought.

Thin, as `main.py` is. Nothing is spent; a server is asked what a key has, if one is given.
"""

from typing import Annotated, Any, Literal

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
    Validation,
    sources,
)
from craft_tuner.cli.output import give, give_json, say
from craft_tuner.config.settings import parse_assignments
from craft_tuner.errors import CraftTunerError, DataError

_CHECK_EXAMPLES = """\b
Examples:
  craft-tuner data check photos/
  craft-tuner data check coop:oxford_pets@/data --shots 16 --sampling craft
  craft-tuner data check coop:imagenet-a@/data --quick --json

\b
Exit codes:
  0 a fit can begin
  1 something is a problem, or the dataset cannot be read
  2 flags
"""

app = typer.Typer(
    help="Look at datasets; costs nothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def data() -> None:
    """Look at datasets; costs nothing."""


@app.command(epilog=_CHECK_EXAMPLES)
def check(
    source: Annotated[str, typer.Argument(help="What --data of `craft-tuner fit` takes")],
    *,
    preset: Annotated[
        str | None, typer.Option(help="Settings of a dataset of the paper to plan with")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method to plan for")] = None,
    shots: Shots = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the shots")] = None,
    budget: Budget = None,
    sampling: Annotated[
        Literal["names", "coop", "craft"] | None, typer.Option(help="Which images are the shots")
    ] = None,
    validation: Validation = None,
    assignments: Assignments = None,
    class_names: ClassNames = None,
    allow_outside: AllowOutside = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Open no image: no damage or doubles found, no bytes")
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Say what a dataset has, what is wrong with it, and what a fit on it would need.

    The plan is that of `craft-tuner fit` with the same settings. With a key, it is the plan for
    what this key may and has left, as its server says; without one, no server is asked.
    """
    from craft_tuner.commands import check_data as data_checks

    given: dict[str, Any] = {
        "preset": preset,
        "method": method,
        "shots": shots,
        "seed": seed,
        "budget": budget,
        "sampling": sampling,
        "validation": validation,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    found_in = sources(
        config,
        server=server,
        key=key,
        model=model,
        timeout_s=timeout,
        allow_outside=allow_outside,
    )
    flags = {**parse_assignments(assignments or []), **flags}
    try:
        found = data_checks.look(
            source,
            [found_in.fit, found_in.fit_environment, flags],
            connection=found_in.settings,
            class_names=class_names,
            opened=not quick,
        )
    except DataError as error:
        say(f"craft-tuner: {error}")
        raise typer.Exit(CraftTunerError.exit_code) from error
    if as_json:
        give_json(found.model_dump_json())
    else:
        give(found.text())
    raise typer.Exit(0 if found.usable else CraftTunerError.exit_code)
