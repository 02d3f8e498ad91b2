"""The one way of command lines to the terminal: whatever is said, it commands nothing."""

import typer

from craft_tuner.errors import json_printable, printable


def say(text: str) -> None:
    """A sentence to standard error."""
    typer.echo(printable(text), err=True)


def give(text: object, *, end: str = "\n") -> None:
    """A result for people to standard output."""
    typer.echo(printable(str(text)) + end, nl=False)


def give_json(text: str) -> None:
    """A result for programs to standard output: the values are as they were."""
    typer.echo(json_printable(text))
