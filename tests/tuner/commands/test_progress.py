"""People who watch a fit see loss, held-out accuracy, queries and time; a log sees few lines."""

import io
import re
import threading

import pytest
from rich.console import Console

from craft_shared.messages import Counters
from craft_tuner.activity import Work, doing
from craft_tuner.commands import progress
from craft_tuner.commands.progress import Screen, open_screen
from craft_tuner.methods.base import Progress
from craft_tuner.plan import Phase, Plan
from tests.support.tuner_fakes import some_budgets

QUIET_S = 3.0


def a_step(generation, *, generations=195, warnings=(), **metrics):
    return Progress(
        generation=generation,
        generations=generations,
        queries=41 * generation,
        queries_planned=41 * generations,
        metrics={"seconds": 2.0, "fitness_lowest": 0.5, **metrics},
        warnings=warnings,
    )


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", QUIET_S)


class Ticks:
    """A clock that moves two seconds each time it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now


def watch(*, terminal=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None, _environ={})
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


class Clock:
    """Shows what a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("heldout", [{}, {"heldout_accuracy": 0.5}])
def test_a_terminal_gets_a_live_line(heldout):
    screen, text = watch(terminal=True)
    with screen, doing("fitting", total=195, unit="generations") as work:
        screen.uploading(10)(10)
        for work.done in (1, 2):
            screen.generation(a_step(work.done, **heldout))
        screen.beat()
    reported = text.getvalue()
    assert "2/195 generations" in reported
    assert "queries 82 spent" in reported
    assert "generation 1/195" not in reported


@pytest.mark.parametrize("width", [24, 40, 50, 60, 80, 99, 120, 200])
@pytest.mark.parametrize("show", [Screen.beat, lambda screen: screen.say("a word")])
def test_a_narrow_terminal_cuts_no_word(width, show):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, color_system=None, _environ={})
    with Screen(console, clock=Ticks()) as screen, doing("fitting", total=195) as work:
        for work.done in (1, 2):
            screen.generation(a_step(work.done, heldout_accuracy=0.8125))
        screen.uploading(2877)(100)
        screen.beat()
        text.truncate(0)
        text.seek(0)
        show(screen)
        shown = text.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    said = re.sub(r"\x1b\[[?\d]*[A-Za-z]", " ", shown).split()
    expected = "uploading 100/2,877 images fitting 2/195 steps 0.5000 held-out 81.2% 7,913"
    assert {*expected.split()} <= {*said}


# --- nobody waits without a word ------------------------------------------------------------------


def a_quiet_screen(*, terminal=False, dumb=False):
    text, clock = io.StringIO(), Clock()
    environ = {"TERM": "dumb" if dumb else "xterm"}
    console = Console(
        file=text, force_terminal=terminal, width=60, color_system=None, _environ=environ
    )
    return Screen(console, clock=clock), text, clock


def test_where_nothing_is_said_for_long_it_is_said_what_is_done():
    screen, text, clock = a_quiet_screen()
    with screen, doing("uploading", total=2877, unit="images") as work:
        for clock.now in (1.0, QUIET_S - 0.1):
            screen.beat()
        assert text.getvalue() == ""
        clock.now = 4.5
        work.advance(1000)
        with doing("waiting for the server"):
            screen.beat()
            clock.now = 5.0
            screen.beat()
        clock.now = 9.4
        screen.beat()
    assert text.getvalue().splitlines() == [
        "still uploading, 1,000 of 2,877 images: waiting for the server, 4 s",
        "still uploading, 1,000 of 2,877 images, 9 s",
    ]


def test_any_other_word_is_enough_for_a_while():
    screen, text, clock = a_quiet_screen()
    with screen:
        clock.now = QUIET_S - 1
        screen.say("a word")
        clock.now = 2 * QUIET_S - 2
        screen.beat()
        assert text.getvalue() == "a word\n"
        clock.now = 2 * QUIET_S
        screen.beat()
    assert text.getvalue().splitlines()[1:] == ["still at work, 6 s"]


def test_a_terminal_shows_what_is_done_and_nothing_stays_of_it():
    screen, text, _ = a_quiet_screen(terminal=True)
    with screen:
        with doing("writing the page"):
            screen.beat()
            assert "writing the page  0:00:00" in text.getvalue()
        shown = text.getvalue()
        assert shown.split("0:00:00")[1].startswith("\r\x1b[2K")
        screen.beat()
        assert text.getvalue() == shown


def test_a_terminal_is_told_of_work_without_a_name_too():
    screen, text, clock = a_quiet_screen(terminal=True)
    with screen:
        clock.now = 5.0
        screen.beat()
    assert text.getvalue() == "still at work, 5 s\n"


@pytest.mark.parametrize(("terminal", "said"), [(False, "loading torch\n"), (True, "loading")])
def test_what_stops_other_threads_is_said_before_it_begins(terminal, said):
    screen, text, _ = a_quiet_screen(terminal=terminal)
    with screen, doing("loading torch", at_once=True):
        assert said in text.getvalue()


def test_the_time_before_the_screen_counts():
    text = io.StringIO()
    with Screen(Console(file=text, width=60), clock=lambda: 9.0, since=5.0) as screen:
        screen.beat()
    assert text.getvalue() == "still at work, 4 s\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines():
    screen, text, clock = a_quiet_screen(terminal=True, dumb=True)
    with screen, doing("fitting"):
        screen.generation(a_step(1))
        clock.now = 5.0
        screen.beat()
    first, second = text.getvalue().splitlines()
    assert first.startswith("generation 1/195")
    assert second.startswith("still fitting (loss 0.5000  ")


def test_what_a_part_of_a_command_began_is_over_with_it():
    screen, text, clock = a_quiet_screen()
    with screen, doing("classifying"):
        with screen.part():
            screen.uploading(9)
        clock.now = 60.0
        screen.beat()
    assert text.getvalue().splitlines()[-1] == "still classifying, 60 s"


def test_a_screen_within_a_screen_is_that_screen():
    with open_screen() as screen, open_screen() as inner:
        assert inner is screen
    with open_screen() as other:
        assert other is not screen


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_where_nobody_reads_any_more_nothing_is_said_and_work_goes_on(monkeypatch, error):
    tried = threading.Event()

    def fails(_):
        tried.set()
        raise error

    monkeypatch.setattr(Screen, "beat", fails)
    monkeypatch.setattr(progress, "TICK_S", 0.001)
    with open_screen():
        assert tried.wait(20)


def test_works_that_nobody_watches_are_free():
    with doing("fitting", total=3) as work:
        work.advance()
    assert str(work) == "fitting, 1 of 3 steps"


@pytest.mark.parametrize(
    ("first", "done", "left"), [(0, 0, None), (0, 1, 90.0), (0, 10, 0.0), (5, 5, None), (5, 6, 40)]
)
def test_the_time_left_is_reckoned_from_what_was_done_here(first, done, left):
    assert Work("fitting", 10, done=done, first=first).left_s(10.0) == left
