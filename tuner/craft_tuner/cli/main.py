"""The command line: `craft-tuner fit | evaluate | predict | export | bench | report | ...`.

Thin: reads options, calls the part that knows, shows what comes back. Results go to standard
output, everything said on the way to standard error. A failure is one sentence and the exit code
of its kind (`craft_tuner.errors`); 130 after Ctrl-C.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from craft_tuner import methods
from craft_tuner.cli import bench as cli_bench
from craft_tuner.cli import data as cli_data
from craft_tuner.cli import doctor as cli_doctor
from craft_tuner.cli import export as cli_export
from craft_tuner.cli import predict as cli_predict
from craft_tuner.cli import report as cli_report
from craft_tuner.cli.options import (
    AdapterPath,
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
    extra,
)
from craft_tuner.cli.options import sources as gather_sources
from craft_tuner.cli.output import give, give_json, say
from craft_tuner.commands.progress import open_screen
from craft_tuner.config import explain as choices
from craft_tuner.config import fit_config as configuration
from craft_tuner.config import presets as official
from craft_tuner.config.connection import user_agent
from craft_tuner.config.settings import parse_assignments
from craft_tuner.errors import INTERRUPTED, CraftTunerError, UsageError, disk_words

_EXIT_CODES = """\b
Exit codes:
  0 done                          4 the key does not open it
  1 it failed for another reason  5 the budget does not cover it
  2 flags, settings or data       6 another model
  3 no answer from a craft-server 7 the run directory
  8 the fit diverged            130 interrupted (Ctrl-C)
"""

_FIT_EXAMPLES = """\b
Examples:
  craft-tuner fit --data digits --preset digits --run runs/first
  craft-tuner fit --data photos/ --shots 8 --seed 2 --budget 4000 --sigma 0.02
  craft-tuner fit --data coop:dtd@/data --preset dtd --paper-exact --seed 3
  craft-tuner fit --data photos/ --shots 8 --track tensorboard
  craft-tuner fit --resume runs/first
"""
_EVALUATE_EXAMPLES = """\b
Examples:
  craft-tuner evaluate runs/first --data digits --zero-shot
  craft-tuner evaluate adapter.safetensors --data new-photos/ --json
  craft-tuner evaluate runs/imagenet --data coop:imagenet-a@/data
"""
_USAGE_EXAMPLES = """\b
Examples:
  craft-tuner usage --by day
"""
_SETTINGS_EXAMPLES = """\b
Examples:
  craft-tuner settings
"""
_DEMO_EXAMPLES = """\b
Examples:
  craft-tuner demo --seed 2 --out runs/demo-2
"""


class _Commands(TyperGroup):
    """The commands; Ctrl-C in any of them is a line, where the command itself has not said one."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with its whole first sentence, on as many lines as it takes."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(limit=1000)) for name, one in named if one]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("craft-tuner: interrupted")
            raise SystemExit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

METHODS = ", ".join(methods.names())
DATA = "Class folders, CSV or JSONL file, coop:NAME@ROOT, hf:OWNER/NAME, or `digits`"


def main(*, since: float | None = None) -> None:
    """Run the command line; a failure is one sentence and an exit code.

    `since` is when the program began, a time of `time.monotonic`.
    """
    try:
        with open_screen(since=since):
            app()
    except CraftTunerError as error:
        say(f"craft-tuner: {error}")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        say(f"craft-tuner: {disk_words(error)}")
        raise SystemExit(CraftTunerError.exit_code) from None


def _show_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        give(user_agent().replace("/", " ", 1))
        raise typer.Exit


@app.callback()
def craft_tuner(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and stop"
        ),
    ] = False,
) -> None:
    """Adapt a metered black-box CLIP over HTTP: labels stay here, weights stay there."""


@app.command(
    epilog=_FIT_EXAMPLES,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def fit(
    context: typer.Context,
    *,
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of a dataset of the paper")] = None,
    method: Annotated[str | None, typer.Option(help=f"How: {METHODS}")] = None,
    paper_exact: Annotated[
        bool, typer.Option("--paper-exact", help="As the paper's code where a black box permits")
    ] = False,
    shots: Shots = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random")] = None,
    budget: Budget = None,
    validation: Validation = None,
    assignments: Assignments = None,
    run: Annotated[Path | None, typer.Option(help="Directory to create for the run")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run to go on with")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would spend and move, and stop")
    ] = False,
    class_names: ClassNames = None,
    allow_outside: AllowOutside = None,
    track: Annotated[
        str | None,
        typer.Option(help="Tell a tracker: tensorboard, module:callable, none [CRAFT_TRACK]"),
    ] = None,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Adapt the model to a dataset: shots in, adapter out, every query within the budget.

    Every setting (see `craft-tuner settings`) is a flag as well: --sigma 0.5 is --set sigma=0.5,
    is CRAFT_FIT_SIGMA=0.5. Flags win over the environment, the environment over the file.
    """
    from craft_tuner.commands import fit as commands
    from craft_tuner.commands.session import default_run

    sources = gather_sources(
        config,
        server=server,
        key=key,
        model=model,
        timeout_s=timeout,
        track=track,
        allow_outside=allow_outside,
    )
    given = {
        "preset": preset,
        "method": method,
        "shots": shots,
        "seed": seed,
        "budget": budget,
        "validation": validation,
    }
    flags = {
        **parse_assignments(assignments or []),
        **extra(context.args, command="fit"),
        **{name: value for name, value in given.items() if value is not None},
        **({"paper_exact": True} if paper_exact else {}),
    }
    if resume is not None:
        fixed = flags | ({"dry-run": True} if dry_run else {})
        _refuse_with_resume(fixed, data=data, run=run)
        commands.resume(resume, sources.settings)
        return
    if data is None:
        raise UsageError("what to fit? give --data FOLDER, FILE.csv, coop:NAME@ROOT or digits")
    layers = [
        (f"the file {config}", sources.fit),
        ("the environment", sources.fit_environment),
        ("flag", flags),
    ]
    settings = configuration.build(*(layer for _, layer in layers))
    origins = choices.origins(layers)
    if dry_run:
        commands.foresee(
            settings, sources.settings, data=data, class_names=class_names, origins=origins
        )
        return
    where = run or default_run(data, settings)
    commands.fit(
        where, settings, sources.settings, data=data, class_names=class_names, origins=origins
    )


@app.command(epilog=_EVALUATE_EXAMPLES)
def evaluate(
    adapter: AdapterPath,
    *,
    data: Annotated[str, typer.Option(help=DATA)],
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Also without the adapter")
    ] = False,
    as_json: AsJson = False,
    class_names: ClassNames = None,
    allow_outside: AllowOutside = None,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Measure an adapter on labelled images (the test split, where there is one).

    Costs one query per image set, one more with --zero-shot. Asking again costs nothing.
    """
    from craft_tuner.commands import fit as commands

    sources = gather_sources(
        config,
        server=server,
        key=key,
        model=model,
        timeout_s=timeout,
        allow_outside=allow_outside,
    )
    found = commands.evaluate(
        adapter, sources.settings, data=data, class_names=class_names, zero_shot=zero_shot
    )
    if as_json:
        give_json(json.dumps(found.model_dump(mode="json"), ensure_ascii=False))
        return
    for way in ("zero_shot", "prompt_only", "adapted"):
        scored = getattr(found, way)
        if scored is not None:
            give(f"{way.replace('_', '-')}\t{scored.accuracy:.4f}\t{scored.images}")


app.command(epilog=cli_predict.EXAMPLES)(cli_predict.predict)
app.command(epilog=cli_export.EXAMPLES)(cli_export.export)
app.command(epilog=cli_bench.EXAMPLES)(cli_bench.bench)
app.command(epilog=cli_report.EXAMPLES)(cli_report.report)
app.add_typer(cli_data.app, name="data", cls=_Commands)
app.command(
    epilog=cli_doctor.EXAMPLES,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(cli_doctor.doctor)


@app.command(epilog=_USAGE_EXAMPLES)
def usage(
    *,
    by: Annotated[Literal["total", "day", "hour"], typer.Option(help="Time bucket")] = "total",
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Show what the key has left and what the server's ledger says that it spent."""
    from craft_tuner.commands import fit as commands
    from craft_tuner.plan import COUNTERS, words

    sources = gather_sources(config, server=server, key=key, timeout_s=timeout)
    info, spent = commands.usage(sources.settings, bucket=by)
    if as_json:
        give_json(
            json.dumps({"key": info.model_dump(mode="json"), **spent.model_dump(mode="json")})
        )
        return
    stands = [(words(name), budget) for name, budget in info.budgets if budget is not None]
    left = (f"{one.remaining:,} of {one.limit:,} {what}" for what, one in stands)
    say(f"key {info.id} of {info.owner}: {', '.join(left)} left")
    give("\t".join(["start", *COUNTERS]))
    for bucket in spent.buckets:
        counters = "\t".join(str(value) for _, value in bucket.counters)
        give(f"{bucket.start.isoformat() if bucket.start else 'total'}\t{counters}")


@app.command(epilog=_SETTINGS_EXAMPLES)
def settings() -> None:
    """List the methods with their cost, the presets, and every setting of a fit."""
    from craft_tuner.training.estimate import method_lines

    give("methods, with what they cost at 16 shots of ten classes:")
    for line in method_lines():
        give(f"  {line}")
    give(f"presets: {', '.join(official.preset_names())}")
    for name, field in configuration.every_field().items():
        default = field.get_default(call_default_factory=True)
        give(f"--{name.replace('_', '-')} [{default}]  {field.description}")


@app.command(epilog=_DEMO_EXAMPLES)
def demo(
    *,
    seed: Annotated[int, typer.Option(help="Seed of shots, search and head")] = 1,
    budget: Annotated[int, typer.Option(help="Queries that the demo's key may buy")] = 8000,
    out: Annotated[
        Path | None, typer.Option(help="Directory to create; default: runs/demo or runs/demo-N")
    ] = None,
    keep_server: Annotated[
        bool, typer.Option("--keep-server", help="Leave the server running and say where")
    ] = False,
) -> None:
    """Start a server, adapt its model to handwritten digits over HTTP, and show what it cost."""
    from craft_tuner.commands.demo import run_demo

    run_demo(out, seed=seed, budget=budget, keep_server=keep_server)


# --- what stands behind the options -------------------------------------------------------------


def _refuse_with_resume(fixed: Mapping[str, Any], *, data: str | None, run: Path | None) -> None:
    names = [*fixed, *(["data"] if data else []), *(["run"] if run else [])]
    if names:
        raise UsageError(
            f"--resume goes on with the settings of the run; leave out: {', '.join(names)}"
        )
