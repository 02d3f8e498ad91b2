"""What is printed says the same on any width: nothing is cut, no column is squeezed to a letter."""

import io
import re

import pytest
from rich.console import Console

from craft_shared.messages import Counters
from craft_tuner.commands.demo import _table
from craft_tuner.commands.progress import Screen
from craft_tuner.plan import Phase, Plan
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_fakes import some_budgets
from tests.support.tuner_server import FakeServer

pytestmark = pytest.mark.slow

WIDTHS = (40, 60, 80, 200)
BOX = re.compile("[\N{BOX DRAWINGS LIGHT HORIZONTAL}-\N{BOX DRAWINGS HEAVY UP AND HORIZONTAL}]")
VARIES = re.compile(r"\d+ ms|\d:\d\d:\d\d")
"""How long something takes."""

COMMANDS = {
    "commands": (),
    "fit": ("fit", "--help"),
    "evaluate": ("evaluate", "--help"),
    "predict": ("predict", "--help"),
    "export": ("export", "--help"),
    "bench": ("bench", "--help"),
    "report": ("report", "--help"),
    "data": ("data", "--help"),
    "check": ("data", "check", "--help"),
    "demo": ("demo", "--help"),
    "settings": ("settings",),
    "usage": ("usage",),
    "usage by day": ("usage", "--by", "day"),
    "plan": ("fit", "--data", "DATA", "--shots", "3", "--dry-run"),
    "plan of craft": ("fit", "--data", "DATA", "--shots", "3", "--method", "craft", "--dry-run"),
    "report on data": ("data", "check", "DATA", "--shots", "3"),
    "bench of many": ("bench", "--data", "DATA", "--shots", "3,1", "--dry-run", "--out", "OUT"),
}
"""What prints tables, lists or columns."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return build_zoo(tmp_path_factory.mktemp("widths"))


def squeezed(text):
    """All but the blanks and borders, in order."""
    return re.sub(r"\s+", "", BOX.sub("", VARIES.sub("", text)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_the_same_at_any_width(zoo, tmp_path, monkeypatch, command):
    monkeypatch.setenv("NO_COLOR", "1")
    named = {"DATA": zoo, "OUT": tmp_path / "out"}
    given = [named.get(word, word) for word in COMMANDS[command]]
    said = []
    with typing_to(FakeServer()) as tuner:
        for width in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(width))
            _, out, error = tuner(*given)
            assert not re.search(r"\N{HORIZONTAL ELLIPSIS}|\w\.\.\.$", out + error, re.MULTILINE)
            assert "\x1b" not in out + error
            said.append(squeezed(out + error))
    assert len(said[0]) > 20
    assert {*said} == {said[-1]}


def demo_table(width):
    scored = {"accuracy": 0.6514, "images": 1437}
    counters = {"queries": 7997, "calls": 390, "logit_vectors": 1_022_874, "texts": 79_970}
    purposes = ("zero-shot", "fitness", "head", "test")
    result = {
        "method": "craft",
        "evaluation": {"zero_shot": scored, "prompt_only": scored, "adapted": scored},
        "spent": dict.fromkeys(purposes, counters),
        "spent_total": counters,
        "seconds": {"prepare": 1.0, "upload": 2.0, "fit": 61.0, "test": 1.0, "report": 2.5},
        "adapter_bytes": 9000,
    }
    account = dict.fromkeys(("server's ledger", "key used", "tuner's belief"), (7997, 5))
    text = io.StringIO()
    console = Console(file=text, width=width, _environ={})
    console.print(_table(result, account, seconds=70.0))
    return text.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_the_demo_cuts_no_label(width):
    shown = demo_table(width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= width
    labels = "zero-shot prompt only craft queries fitness head total account balances time adapter"
    values = "65.14 1,437 7,997 ledger belief prepare upload fit test report KiB"
    assert {*f"{labels} {values}".split()} <= {*re.findall(r"[\w.-]+(?:,\d+)*", shown)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_plan_cuts_no_label(width, terminal):
    cost = Counters(queries=7997, calls=390, logit_vectors=1_022_874, texts=79_970)
    names = ("fitness", "head", "test")
    phases = tuple(Phase(purpose=name, what="160 shots x 40 prompts", cost=cost) for name in names)
    plan = Plan(method="craft", budget=8000, generations=195, population=40, phases=phases)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, _environ={})
    with Screen(console) as screen:
        screen.plan(plan, some_budgets(8000), cost)
    assert plan.table() in text.getvalue()
