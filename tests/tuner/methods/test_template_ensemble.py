"""The ensemble asks its authors' templates, averages their logits, and trains nothing."""

from pathlib import Path

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.blackbox import Images
from craft_tuner.config.fit_config import build
from craft_tuner.plan import Workload
from craft_tuner.texts import dataset_templates, imagenet_templates
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import TEST, fit

SELECTED = (  # notebooks/Prompt_Engineering_for_ImageNet.ipynb, in the order of its selection
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
THREE = build({"method": "template_ensemble", "ensemble_size": 3})


def test_the_lists_are_whole_and_every_template_has_one_place_for_the_class() -> None:
    imagenet, others = imagenet_templates(), dataset_templates()
    assert (len(imagenet), len(others)) == (80, 118)
    assert imagenet[:7] == SELECTED
    assert len({*imagenet, *others}) == 198
    assert all(template.count("{}") == 1 for template in (*imagenet, *others))


def test_logits_are_the_mean_of_the_templates(tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box)
    adapter = fit(tmp_path / "run", box, task, THREE).adapter
    assert (box.used, adapter.prompts_per_image) == (0, 3)
    raw, refined = adapter.logits(box, task.shots, purpose="test", step="test")
    assert (box.templates, box.used) == ([*SELECTED[:3]], 3)
    by_hand = np.mean(
        [
            100 * box.sets["shots"] @ box.text_features(box.offsets_of(task.texts, template)).T
            for template in SELECTED[:3]
        ],
        axis=0,
    )
    np.testing.assert_allclose(refined, by_hand, rtol=1e-5)
    np.testing.assert_array_equal(raw, refined)
    assert adapter.refine(np.array([[[1, 2, 9]], [[2, 4, 0]], [[6, 0, 3]]], np.float32)) == (
        pytest.approx(np.array([[3, 2, 4]]))
    )


def test_a_template_is_a_query_and_nothing_else_is(tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, a_task(box), THREE)
    test = Workload(classes=3, shots=12, test_images=7, test_sets=2)
    plan = methods.get("template_ensemble").plan(THREE, test)
    assert (plan.fit.queries, plan.total.queries) == (0, 2 * (1 + 3))
    assert plan.total.logit_vectors == 7 * (1 + 3)
    assert done.run.plan.total.queries == len(TEST.sets) * 4
    done.adapter.logits(box, Images(("shots",), 12), purpose="test", step="test")
    assert box.used == 3


def test_by_default_it_is_the_authors_seven_and_at_most_the_eighty(tmp_path: Path) -> None:
    box = SmoothBox()
    seven = fit(tmp_path / "run", box, None, build({"method": "template_ensemble"}))
    assert seven.adapter.card.templates == SELECTED
    again = fit(tmp_path / "run", box, None, build({"method": "template_ensemble"}))
    assert again.adapter.to_bytes() == seven.adapter.to_bytes()
