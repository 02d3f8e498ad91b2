"""Head only: a query a view, then the official head's epochs for nothing, whatever is killed."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.config.fit_config import build
from craft_tuner.errors import BudgetExhausted, FitDiverged
from craft_tuner.heads.residual import Head
from craft_tuner.heads.softmax import cross_entropy
from craft_tuner.plan import Workload
from craft_tuner.seeds import Stream, stream
from tests.support.tuner_fakes import SmoothBox, a_task, validated
from tests.support.tuner_runs import TEST, fit

pytestmark = pytest.mark.slow

SMALL = {"method": "head_only", "head_hidden": 8, "views": 3, "shots": 4, "batch_size": 5}
CONFIG = build({**SMALL, "head_epochs": 7, "kl_weight": 0.5})


def test_a_fit_buys_each_view_once_and_no_more(tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, CONFIG)
    assert box.asked == ["head/1", "head/2", "head/3"]
    assert {question.purpose for question in box.paid.values()} == {"head"}
    assert box.used == done.run.plan.fit.queries == 3
    assert done.run.plan.total.queries == 3 + 2 * len(TEST.sets)
    assert [step.generation for step in done.progress] == [1, 2, 3, 4, 5, 6, 7]
    assert {(s.generations, s.queries, s.queries_planned) for s in done.progress} == {(7, 3, 3)}
    assert done.adapter.offsets is None
    assert done.adapter.prompts_per_image == 1
    assert done.adapter.card.training["stopped"] == "the plan's epochs are done"


def test_the_head_is_trained_as_the_official_code_would(tmp_path: Path) -> None:
    """The loop of main_craft.py:210-223 in plain torch, on logits of the plain prompt."""
    config = build({**SMALL, "head_epochs": 5, "kl_weight": 0.5, "population": 1000})
    box = SmoothBox()
    task = a_task(box, views=3)
    head = fit(tmp_path / "run", box, task, config).adapter.head
    start = Head(3, config).layers()
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    for layer, (weight, bias) in zip((net[0], net[2]), start, strict=True):
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    text = box.text_features(np.zeros((4, 6), np.float32))
    labels = torch.tensor(task.labels)
    for epoch in range(1, 6):
        logits = torch.tensor(100 * box.sets[f"view-{(epoch - 1) % 3}"] @ text.T)
        order = stream(1, Stream.HEAD_ORDER, 0, epoch).permutation(12)
        weight = 0.5 if epoch * 1000 <= 4000 // 4 else 0  # 4 shots: a budget of 4,000, n = 4
        for batch in torch.split(torch.from_numpy(order), 5):
            refined = logits[batch] + net(logits[batch])
            kl = torch.nn.functional.kl_div(
                refined.log_softmax(1), logits[batch].softmax(1), reduction="batchmean"
            )
            loss = torch.nn.functional.cross_entropy(refined, labels[batch]) + weight * kl
            adam.zero_grad()
            loss.backward()
            adam.step()
    for layer, (weight, bias) in zip((net[0], net[2]), head, strict=True):
        np.testing.assert_allclose(weight, layer.weight.detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("shots", "settings", "epochs", "views"),
    [
        (16, {}, 195, 8),
        (4, {}, 97, 8),
        (1, {}, 48, 8),
        (16, {"preset": "imagenet"}, 97, 8),
        (16, {"head_epochs": 3}, 3, 3),
        (16, {"population": 4096, "budgets": [[1, 4000]]}, 1, 1),
    ],
)
def test_epochs_are_the_generations_of_craft_unless_set(
    shots: int, settings: dict[str, object], epochs: int, views: int
) -> None:
    config = build({"method": "head_only", "shots": shots, **settings})
    method = methods.get("head_only")
    plan = method.plan(config, Workload(10, 160, shot_sets=2, test_images=500, test_sets=1))
    assert (plan.generations, method.views(config)) == (epochs, views)
    assert (plan.fit.queries, plan.fit.calls) == (2 * views, 2 * views)
    assert plan.fit.logit_vectors == 160 * views


def test_it_is_the_head_of_craft_and_beats_the_plain_prompt(tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box, shots=8, views=3, noise=0.3)
    config = build({**SMALL, "lr": 0.05, "head_epochs": 20})
    done = fit(tmp_path / "run", box, task, config)
    raw, refined = done.adapter.logits(box, task.shots, purpose="test", step="test")
    assert (raw.argmax(axis=1) == task.labels).mean() < 0.7
    assert (refined.argmax(axis=1) == task.labels).mean() > 0.9
    assert done.warnings == []
    last = done.run.restore().metrics[-1]
    assert {"heldout_accuracy", "head_accuracy", "gradient_norm_1"} <= set(last)


@contextmanager
def stopping(box: SmoothBox, *, question: int = 0, epoch: int = 0, error: type[BaseException]):
    """Stops before a question, or before a head's epoch."""
    score, train = box.score, Head.epoch

    def scored(*args, **kwargs):
        if len(box.paid) + 1 == question:
            raise error("no more")
        return score(*args, **kwargs)

    def trained(head, *args, generation, **kwargs):
        if generation == epoch:
            raise error("no more")
        return train(head, *args, generation=generation, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "score", scored)
        patch.setattr(Head, "epoch", trained)
        yield


@pytest.mark.parametrize("stop", [{"question": 1}, {"question": 3}, {"epoch": 1}, {"epoch": 6}])
def test_a_fit_that_is_cut_off_goes_on_to_the_same_bytes(
    tmp_path: Path, stop: dict[str, int]
) -> None:
    whole = fit(tmp_path / "whole", SmoothBox(), None, CONFIG).adapter.to_bytes()
    box, path = SmoothBox(), tmp_path / "cut"
    task = a_task(box, views=3)
    with stopping(box, **stop, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fit(path, box, task, CONFIG)
    assert fit(path, box, task, CONFIG).adapter.to_bytes() == whole
    assert box.used == 3
    box.asked.clear()
    assert fit(path, box, task, CONFIG).adapter.to_bytes() == whole
    assert box.asked == []


def test_a_budget_that_ends_leaves_the_plain_prompt_and_can_go_on(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", SmoothBox(), None, CONFIG).adapter.to_bytes()
    box, path = SmoothBox(), tmp_path / "run"
    task = a_task(box, views=3)
    with stopping(box, question=2, error=BudgetExhausted), pytest.raises(BudgetExhausted):
        fit(path, box, task, CONFIG)
    saved = Adapter.load(path)
    assert (saved.head, saved.card.training["stopped"]) == ((), "not finished")
    assert fit(path, box, task, CONFIG).adapter.to_bytes() == whole


def test_views_that_no_epoch_would_see_are_not_bought(tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, build({**SMALL, "head_epochs": 2}))
    assert box.used == done.run.plan.fit.queries == 2


def test_what_cannot_be_paid_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    box = SmoothBox(limit=4)
    task = a_task(box, views=3)
    with pytest.raises(
        BudgetExhausted, match="needs at least 5 queries and the key has 4 left; lower --views"
    ):
        fit(tmp_path / "run", box, task, CONFIG)
    assert box.used == 0


def test_a_head_that_diverges_says_so_and_leaves_the_last_epoch(tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box, views=3)
    box.sets["view-1"] = box.sets["view-1"] * np.nan
    with pytest.raises(FitDiverged, match=r"epoch 2: the head's loss is nan; lower --lr"):
        fit(tmp_path / "run", box, task, CONFIG)
    assert (tmp_path / "run" / "adapter.safetensors").exists()


def chosen(path: Path, *, epochs: int = 5, noise: float = 0.3, **stop: object):
    box = SmoothBox()
    task = validated(box, a_task(box, views=3), noise=noise)
    config = build({**SMALL, "head_epochs": epochs, "lr": 0.05})
    if stop:
        with stopping(box, **stop, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            fit(path, box, task, config)
    return box, task, fit(path, box, task, config)


def test_validation_images_choose_the_epoch_for_one_query(tmp_path: Path) -> None:
    box, task, done = chosen(tmp_path / "run")
    assert box.asked == ["head/1", "head/2", "head/3", "validation"]
    assert box.paid["validation"].purpose == "validation"
    assert box.used == done.run.plan.fit.queries == 4
    losses = []
    for epochs in range(1, 6):
        part = build({**SMALL, "head_epochs": epochs, "lr": 0.05})
        head = fit(tmp_path / f"{epochs}", SmoothBox(), None, part).adapter
        _, refined = head.logits(box, task.validation.images, purpose="test", step="test")
        losses.append(cross_entropy(refined.astype(np.float64), task.validation.labels))
    best = int(np.argmin(losses))
    assert done.adapter.card.training["chosen_on"] == {
        "validation_images": 9,
        "epoch": 1 + best,
    }
    _, refined = done.adapter.logits(box, task.validation.images, purpose="test", step="test")
    assert cross_entropy(refined.astype(np.float64), task.validation.labels) == min(losses)


def test_where_no_epoch_helps_the_plain_prompt_stays(tmp_path: Path) -> None:
    box = SmoothBox()
    task = validated(box, a_task(box, views=3))
    box.sets["validation"] = box.text_features(np.zeros((4, 6), np.float32))[task.validation.labels]
    done = fit(tmp_path / "run", box, task, build({**SMALL, "head_epochs": 3}))
    assert done.adapter.card.training["chosen_on"]["epoch"] == 0
    assert done.adapter.head == ()


@pytest.mark.parametrize("stop", [{"question": 2}, {"question": 4}, {"epoch": 2}, {"epoch": 4}])
def test_a_choice_that_is_cut_off_goes_on_to_the_same_bytes(
    tmp_path: Path, stop: dict[str, int]
) -> None:
    _, _, whole = chosen(tmp_path / "whole")
    box, _, cut = chosen(tmp_path / "cut", **stop)
    assert cut.adapter.to_bytes() == whole.adapter.to_bytes()
    assert box.used == 4
