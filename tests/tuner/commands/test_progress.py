"""People who watch a fit see loss, held-out accuracy, queries and time; a log sees few lines."""

import io
import re

import pytest
from rich.console import Console

from craft_shared.messages import Counters
from craft_tuner.commands.progress import Screen
from craft_tuner.methods.base import Progress
from craft_tuner.plan import Phase, Plan
from tests.support.tuner_fakes import some_budgets


def a_step(generation, *, generations=195, warnings=(), **metrics):
    return Progress(
        generation=generation,
        generations=generations,
        queries=41 * generation,
        queries_planned=41 * generations,
        metrics={"seconds": 2.0, "fitness_lowest": 0.5, **metrics},
        warnings=warnings,
    )


class Ticks:
    """A clock that moves two seconds each time it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now


def watch(*, terminal=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
    return Screen(console, clock=Ticks()), text


def test_a_log_gets_about_twenty_lines_with_first_and_last():
    screen, text = watch()
    with screen:
        for generation in range(1, 196):
            screen.generation(a_step(generation))
    lines = text.getvalue().splitlines()
    assert 20 <= len(lines) <= 24
    assert lines[0].startswith("generation 1/195")
    assert lines[-1].startswith("generation 195/195")


def test_a_line_says_loss_heldout_queries_and_time_left():
    screen, text = watch()
    with screen:
        screen.generation(a_step(1, heldout_accuracy=0.8125))
    line = text.getvalue()
    assert "loss 0.5000  held-out 81.2%  queries 41 spent, 7,954 left" in line
    assert line.rstrip().endswith("0:12:56 left")


def test_what_is_not_measured_is_not_shown():
    screen, text = watch()
    with screen:
        screen.generation(a_step(1))
    assert "held-out" not in text.getvalue()


def test_time_left_of_a_resumed_run_is_reckoned_from_where_it_resumed():
    screen, text = watch()
    with screen:
        screen.generation(a_step(191, generations=195))
        screen.generation(a_step(195, generations=195))
    assert re.findall(r"(\d+:\d\d:\d\d) left", text.getvalue())[-1] == "0:00:00"


def test_warnings_stay_in_view():
    screen, text = watch()
    with screen:
        screen.generation(a_step(2, warnings=("the head diverges [lower --lr]",)))
    assert text.getvalue() == "warning: the head diverges [lower --lr]\n"


def test_plan_upload_and_test_are_reported():
    cost = Counters(queries=1, calls=1, logit_vectors=9, texts=2)
    plan = Plan(
        method="craft",
        budget=10,
        generations=0,
        population=4,
        phases=(Phase(purpose="test", what="9 test images", cost=cost),),
    )
    screen, text = watch()
    with screen:
        screen.plan(plan, some_budgets(8000, texts=2), cost)
        screen.plan(plan, some_budgets(8000, texts=1), cost)
        screen.uploading(2877)(100)
        screen.testing(1437)
    reported = text.getvalue()
    assert "9 test images" in reported
    assert "the key has 8,000 queries, 2 texts left" in reported
    assert "after this run: 7,999 queries, 0 texts" in reported
    assert "less than this run still costs" in reported.split("1 texts left")[1]
    assert "uploading 2,877 images" in reported
    assert "testing it on 1,437 images" in reported


@pytest.mark.parametrize("heldout", [{}, {"heldout_accuracy": 0.5}])
def test_a_terminal_gets_a_live_line(heldout):
    screen, text = watch(terminal=True)
    with screen:
        screen.uploading(10)(10)
        screen.generation(a_step(1, **heldout))
        screen.generation(a_step(2, **heldout))
        screen._bars.refresh()
    reported = text.getvalue()
    assert "2/195" in reported
    assert "queries 82 spent" in reported
    assert "generation 1/195" not in reported


@pytest.mark.parametrize("width", [50, 60, 80, 99, 120])
def test_a_narrow_terminal_cuts_no_word(width):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, color_system=None)
    with Screen(console, clock=Ticks()) as screen:
        screen.uploading(2877)(100)
        for generation in (1, 2):
            screen.generation(a_step(generation, heldout_accuracy=0.8125))
        text.truncate(0)
        text.seek(0)
        screen._bars.refresh()
        shown = text.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    said = shown.split()
    assert {"100/2877", "images", "fit", "2/195", "0.5000", "held-out", "81.2%", "7,913"} <= {*said}
    assert any(word.endswith("upload") for word in said)
