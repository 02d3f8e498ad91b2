"""What is printed says the same on any width: nothing is cut, no column is squeezed to a letter."""

import json
import re
import sys

import pytest

from craft_server.cli import console

WIDTHS = (40, 60, 80, 250)
HELP = {
    *("", "serve", "check", "usage", "keys", "keys create", "keys create-admin", "keys list"),
    *("keys set-budget", "keys change", "keys rotate", "keys revoke", "keys log", "db"),
    *("db status", "db upgrade"),
}
ROW = {
    "id": "key_3f2a9c11",
    "owner": "vision-lab",
    "queries_limit": 8000,
    "texts_limit": None,
    "scopes": ["logits:read", "images:write", "usage:read"],
    "created_at": "2026-11-28T18:00:00+00:00",
    "policy": json.dumps({"class_names": ["[bold]cat"] * 20}).replace(" ", ""),
}


def squeezed(text):
    return re.sub(r"\s+", "", text)


@pytest.fixture
def shown(monkeypatch, capsys):
    """Show rows on a terminal of so many columns; styles are left out of what comes back."""

    def show(rows, width):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        console.show(rows)
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    return show


@pytest.mark.parametrize("command", sorted(HELP))
def test_help_says_the_same_at_any_width(craft_server, monkeypatch, command):
    said = set()
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        out = craft_server(*command.split(), "--help").out
        assert not re.search(r"\N{HORIZONTAL ELLIPSIS}|[\w,;]\.\.\.$", out, re.MULTILINE)
        said.add(squeezed(out))
    assert len(said) == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_are_shown_whole_on_a_terminal_of_any_width(shown, width, rows):
    out = shown([ROW] * rows, width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert max(map(len, out.splitlines())) <= width
    if rows:
        assert [out.count(name) for name in ROW] == [rows] * len(ROW)
        assert squeezed(out).count(squeezed(ROW["policy"])) == rows


@pytest.mark.parametrize("width", WIDTHS)
def test_few_columns_stay_a_table(shown, width):
    out = shown([{"tag": "fitness", "queries": 6}, {"tag": "head", "queries": 2}], width)
    lines = [line.split() for line in out.splitlines()]
    assert lines == [["tag", "queries"], ["fitness", "6"], ["head", "2"]]
