"""What is timed is all of it: each moment belongs to a stage."""

import time

from craft_tuner.report import time_words
from craft_tuner.training.fit import Clock


def test_stages_add_up_to_the_time_since_the_clock_was_started(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(since=time.monotonic())
    for stage, until in (("prepare", 101.5), ("upload", 104.0), ("fit", 170.0), ("fit", 171.0)):
        now[0] = until
        clock.end(stage)
    assert clock.seconds == {"prepare": 1.5, "upload": 2.5, "fit": 67.0}
    assert sum(clock.seconds.values()) == now[0] - 100.0


def test_what_an_earlier_command_spent_is_added():
    clock = Clock()
    clock.add("fit", 5.0)
    clock.end("fit")
    assert 5.0 <= clock.seconds["fit"] < 60.0


def test_time_is_said_in_all_and_by_stage():
    assert time_words({"upload": 2.0, "fit": 61.25}) == "0:01:03 (upload 2.0 s, fit 0:01:01)"
