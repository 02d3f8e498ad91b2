"""Logits of one use are bought in parts and let go of; a fit that is small stays one question."""

import weakref

import numpy as np
import pytest

from craft_tuner import blackbox
from craft_tuner.blackbox import score_in_parts
from craft_tuner.config.fit_config import build
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import fit

SMALL = {"intrinsic_dim": 12, "population": 6, "head_hidden": 8, "views": 1, "shots": 4}
ONE_PROMPT = 12 * 3
"""Logits of a prompt on the task: 3 classes, 4 shots of each."""


class WatchedBox(SmoothBox):
    """Counts the fitness replies that are still in memory when the next one is asked for."""

    def score(self, texts, offsets, images, *, purpose, step):
        if purpose == "fitness":
            self.alive = [*self.alive, sum(reply() is not None for reply in self.replies)]
        reply = super().score(texts, offsets, images, purpose=purpose, step=step).copy()
        self.replies.append(weakref.ref(reply))
        return reply

    def __post_init__(self):
        super().__post_init__()
        self.alive, self.replies = [], []


def asked_in_parts(prompts=6):
    box = SmoothBox()
    task = a_task(box)
    offsets = np.random.default_rng(1).standard_normal((prompts, 4, 6), np.float32)
    parts = list(
        score_in_parts(box, task.texts, offsets, task.shots, purpose="fitness", step="fitness/1")
    )
    whole = SmoothBox(sets=box.sets).score(
        task.texts, offsets, task.shots, purpose="fitness", step="fitness/1"
    )
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    return box, [len(part) for part in parts]


def test_what_fits_is_one_question_under_its_own_name():
    box, sizes = asked_in_parts()
    assert (box.asked, sizes) == (["fitness/1"], [6])


def test_what_does_not_fit_is_asked_some_prompts_at_a_time(monkeypatch):
    monkeypatch.setattr(blackbox, "LOGITS_AT_ONCE", 4 * ONE_PROMPT + 1)
    box, sizes = asked_in_parts()
    assert (box.asked, sizes) == (["fitness/1/0", "fitness/1/4"], [4, 2])


def test_a_prompt_is_not_divided(monkeypatch):
    monkeypatch.setattr(blackbox, "LOGITS_AT_ONCE", 1)
    assert asked_in_parts(prompts=2)[1] == [1, 1]


@pytest.mark.parametrize("method", ["craft", "bbt"])
def test_a_search_holds_one_part_at_a_time_and_finds_the_same(tmp_path, monkeypatch, method):
    config = build({**SMALL, "method": method, "budget": 2 * 7 + 2})
    whole = fit(tmp_path / "whole", SmoothBox(), None, config)
    monkeypatch.setattr(blackbox, "LOGITS_AT_ONCE", ONE_PROMPT)
    box = WatchedBox()
    parts = fit(tmp_path / "parts", box, None, config)
    assert len(box.alive) == 2 * 6
    assert max(box.alive) == 0
    assert box.used == parts.run.plan.fit.queries
    for one, other in zip(whole.run.restore().metrics, parts.run.restore().metrics, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
