"""The baseline is CoOp: its prompts are the server's, its rate the published one, it learns."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.accuracy.coop import WORDS, CoOp, Recipe, correct, open_model, train
from benchmarks.common.local import load_model
from craft_server.engine.blackbox import Piece
from craft_shared.messages import LogitsRequest, TextPrompts

pytestmark = pytest.mark.slow  # trains

NAMES = ["zero", "one", "seven"]


@pytest.fixture(scope="module")
def opened():
    return open_model(model="embedded")


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_before_training_its_texts_are_those_that_the_server_encodes(opened):
    box = load_model(model="embedded")
    request = LogitsRequest(
        model=box.card.id,
        image_set="set_" + "0" * 32,
        class_names=NAMES,
        prompts=TextPrompts(templates=[f"{WORDS} {{}}."]),
    )
    (texts,) = box.encode_texts([Piece(box.prepare(request, None), slice(0, 1))])
    found = CoOp(opened, NAMES).text_features().detach().numpy()
    assert opened.digest == box.card.digest
    np.testing.assert_allclose(found, texts[0].numpy(), atol=1e-6)


def test_positions_behind_the_last_end_change_nothing(opened):
    cut, whole = (
        CoOp(opened, NAMES, tokens=16, seed=2, full_length=full) for full in (False, True)
    )
    torch.testing.assert_close(cut(images(2)), whole(images(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shots", "epochs"), [(16, 200), (8, 200), (4, 100), (2, 100), (1, 50)])
def test_the_rate_warms_up_for_an_epoch_and_falls_as_a_cosine(shots, epochs):
    recipe = Recipe.of(shots)
    rates = [recipe.lr_at(epoch) for epoch in range(recipe.epochs)]
    assert recipe.epochs == epochs
    assert rates[:2] == [1e-5, 0.002]
    assert rates[1 + epochs // 2] == pytest.approx(0.001)
    assert 0 < rates[-1] < 1e-4 * epochs / 50


def test_training_moves_the_context_alone_and_lowers_the_loss(opened):
    learner, pixels = CoOp(opened, NAMES), images(6)
    labels = learner(pixels).mean(dim=0).argmin().repeat(6)  # the class that is least likely
    before = learner.context.detach().clone()
    weights = {name: value.clone() for name, value in opened.model.state_dict().items()}
    start = functional.cross_entropy(learner(pixels), labels)
    recipe = Recipe(epochs=20, lr=0.1)
    losses = train(learner, lambda _, batch: pixels[list(batch)], labels, recipe, seed=1)
    assert len(losses) == 20
    assert functional.cross_entropy(learner(pixels), labels) < start / 2
    assert not torch.equal(learner.context, before)
    for name, value in opened.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert correct(learner, list(pixels), labels, batch=4) == 6


def test_incomplete_batches_are_dropped_where_there_is_a_full_one(opened):
    seen = []

    def batch_of(epoch, batch):
        seen.append((epoch, len(batch)))
        return images(len(batch))

    labels = torch.zeros(7, dtype=torch.int64)
    recipe = Recipe(epochs=3, batch=4)
    losses = train(CoOp(opened, NAMES), batch_of, labels, recipe, seed=1, most_steps=2)
    assert seen == [(0, 4), (1, 4)]
    assert len(losses) == 2
