"""Every command of both programs has examples in its help, and each of them is understood."""

import shlex

import pytest
import typer

from craft_server.cli import main as server
from craft_tuner.cli import main as tuner
from craft_tuner.cli.options import extra
from craft_tuner.config import fit_config as configuration

PROGRAMS = {"craft-server": server.app, "craft-tuner": tuner.app}


def leaves(command, path):
    """Every command that does something: its words and itself."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from leaves(each, (*path, name))


COMMANDS = {
    path: command
    for name, app in PROGRAMS.items()
    for path, command in leaves(typer.main.get_command(app), (name,))
}


def examples(path):
    """The lines below `Examples:` at the end of a command's help, without those of a pipe."""
    text = COMMANDS[path].epilog or ""
    block = text.partition("Examples:\n")[2].split("\n\n")[0]
    return [line.strip() for line in block.splitlines()]


def test_the_commands_are_all_found():
    assert {("craft-server", "keys", "create"), ("craft-tuner", "data", "check")} <= set(COMMANDS)
    assert {len(path) for path in COMMANDS} == {2, 3}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_has_examples_that_it_understands(path):
    command = COMMANDS[path]
    assert command.help, f"{' '.join(path)} does not say what it does"
    lines = examples(path)
    assert lines, f"{' '.join(path)} has no examples"
    for line in lines:
        words = shlex.split(line.rpartition("| ")[2])
        assert tuple(words[: len(path)]) == path, line
        context = command.make_context(path[-1], words[len(path) :])  # raises for a wrong flag
        flags = extra(context.args, command=path[-1])
        configuration.build(flags)  # those of `fit` that are settings


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_option_says_what_it_is_for(path):
    silent = [each.name for each in COMMANDS[path].params if not getattr(each, "help", None)]
    assert silent == [], f"{' '.join(path)} does not explain these"


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_examples_line_by_line(program):
    for path, command in COMMANDS.items():
        if path[0] == program:
            with command.make_context(path[-1], [], resilient_parsing=True) as context:
                shown = command.get_help(context)
            for line in examples(path):
                assert line in [each.strip() for each in shown.splitlines()], path
