"""Every error has its own exit code, and the module's docstring says which."""

import io

import pytest
from rich.console import Console

from craft_tuner import errors
from craft_tuner.commands.progress import Screen
from craft_tuner.errors import CraftTunerError, ServerUnreachable


def subclasses(kind: type[CraftTunerError]) -> list[type[CraftTunerError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


def test_exit_codes_are_documented_and_distinct() -> None:
    kinds = [kind for kind in subclasses(CraftTunerError) if kind.__module__ == errors.__name__]
    documented = dict(
        line.replace("├", "").replace("└", "").replace("─", "").replace("│", "").split()[:2]
        for line in errors.__doc__.splitlines()
        if line.startswith("    ")
    )
    assert documented == {kind.__name__: str(kind.exit_code) for kind in kinds}
    direct = [kind.exit_code for kind in kinds if kind.__base__ is CraftTunerError]
    assert len(set(direct)) == len(direct)
    assert CraftTunerError("what to do").message == "what to do"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b]0;mine\x07", "\\x1b]0;mine\\x07"),  # sets the title
        ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),  # clears the screen
        ("good\rbad", "good\\x0dbad"),  # hides what stood before
        ("\x9b31m", "\\x9b31m"),  # an escape in one byte
        ("a\u202egnp.exe", "a\\u202egnp.exe"),  # turns the order round
        ("two\nlines\tand Zürich 猫", "two\nlines\tand Zürich 猫"),
    ],
)
def test_what_a_server_says_cannot_command_the_terminal(said: str, shown: str) -> None:
    assert ServerUnreachable(said).message == shown
    screen = io.StringIO()
    Screen(Console(file=screen, width=60)).say(said)
    assert screen.getvalue() == f"{shown.expandtabs()}\n"
