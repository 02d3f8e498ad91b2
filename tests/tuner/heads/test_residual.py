"""The head computes the paper's losses, learns, and resumes to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import Texts
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.heads import residual as refine
from craft_tuner.heads.residual import Head, symmetric_kl
from tests.support.tuner_fakes import a_card

CONFIG = build({"head_hidden": 7, "batch_size": 5, "kl_weight": 0.3})


def some_logits(seed: int = 0, *, prompts: int = 3, images: int = 12, classes: int = 4):
    draw = np.random.RandomState(seed)
    logits = (4 * draw.randn(prompts, images, classes)).astype(np.float32)
    return logits, draw.randint(0, classes, images)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    centred = logits - logits.max(axis=-1, keepdims=True)
    return centred - np.log(np.exp(centred).sum(axis=-1, keepdims=True))


def kl(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    """KL(softmax(p) || softmax(q)) by rows, in float64."""
    p, q = log_softmax(p_logits.astype(np.float64)), log_softmax(q_logits.astype(np.float64))
    return (np.exp(p) * (p - q)).sum(axis=-1)


def train(head: Head, epochs: range) -> list[refine.Epoch]:
    logits, labels = some_logits(prompts=1)
    return [head.epoch(logits[0], labels, generation=g, kl_weight=0.3) for g in epochs]


@given(seed=st.integers(0, 10_000), weight=st.sampled_from([0.0, 0.1, 2.0]))
@settings(max_examples=25, deadline=None)
def test_fitness_is_cross_entropy_plus_weighted_kl(seed: int, weight: float) -> None:
    head = Head(4, build({"head_hidden": 7, "kl_weight": weight}))
    logits, labels = some_logits(seed)
    refined = np.stack([head.refine(block) for block in logits])
    picked = np.take_along_axis(log_softmax(logits.astype(np.float64)), labels[None, :, None], 2)
    expected = (-picked[..., 0] + weight * kl(refined, logits)).mean(axis=1)
    np.testing.assert_allclose(head.fitness(logits, labels), expected, rtol=1e-5, atol=1e-6)


def test_fitness_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(4, CONFIG)
    logits, labels = some_logits()
    whole = head.fitness(logits, labels)
    monkeypatch.setattr(refine, "_CHUNK_VALUES", 35)
    np.testing.assert_allclose(head.fitness(logits, labels), whole, rtol=1e-6)


def test_fitness_takes_half_precision_and_read_only_logits() -> None:
    head = Head(4, CONFIG)
    logits, labels = some_logits()
    logits.flags.writeable = False
    half = logits.astype(np.float16)
    np.testing.assert_allclose(head.fitness(half, labels), head.fitness(logits, labels), rtol=1e-2)


def test_head_starts_as_nn_linear_does() -> None:
    layers = Head(400, build()).layers()
    assert [layer.weight.shape for layer in layers] == [(256, 400), (400, 256)]
    for layer, inputs in zip(layers, (400, 256), strict=True):
        edge = inputs**-0.5
        for values in layer:
            assert np.abs(values).max() <= edge
            assert values.std() == pytest.approx(edge / 3**0.5, rel=0.1)


def test_an_epoch_reports_the_losses_of_the_paper() -> None:
    logits, labels = some_logits(prompts=1)
    config = build({"head_hidden": 7, "batch_size": 100})
    head = Head(4, config)
    refined = head.refine(logits[0])
    epoch = head.epoch(logits[0], labels, generation=1, kl_weight=0.3)
    picked = -log_softmax(refined.astype(np.float64))[np.arange(12), labels].mean()
    assert epoch.cross_entropy == pytest.approx(picked, rel=1e-5)
    assert epoch.kl == pytest.approx(kl(logits[0], refined).mean(), rel=1e-4)
    assert epoch.loss == pytest.approx(epoch.cross_entropy + 0.3 * epoch.kl, rel=1e-6)


def test_gradient_norms_are_those_of_autograd() -> None:
    logits, labels = some_logits(prompts=1)
    head = Head(4, build({"head_hidden": 7, "batch_size": 100}))
    layers = [[torch.tensor(p, requires_grad=True) for p in layer] for layer in head.layers()]
    raw = torch.tensor(logits[0])
    hidden = torch.relu(raw @ layers[0][0].T + layers[0][1])
    refined = raw + hidden @ layers[1][0].T + layers[1][1]
    torch.nn.functional.cross_entropy(refined, torch.tensor(labels)).backward()
    norms = [torch.cat([p.grad.ravel() for p in layer]).norm().item() for layer in layers]
    epoch = head.epoch(logits[0], labels, generation=1, kl_weight=0.0)
    assert epoch.gradient_norms == pytest.approx(norms, rel=1e-5)


def test_epochs_lower_the_loss() -> None:
    losses = [epoch.loss for epoch in train(Head(4, CONFIG), range(1, 200))]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("depth", [2, 3])
def test_a_loaded_head_goes_on_to_the_last_bit(optimiser: str, depth: int) -> None:
    config = build({"head_hidden": 7, "batch_size": 5, "optimiser": optimiser, "head_depth": depth})
    original, loaded = Head(4, config), Head(4, config)
    train(original, range(1, 4))
    loaded.load(original.state())
    assert train(loaded, range(4, 8)) == train(original, range(4, 8))
    for name, value in original.state().items():
        assert np.array_equal(value, loaded.state()[name]), name


def test_adamw_shrinks_weights_and_adam_does_not() -> None:
    logits, labels = some_logits(prompts=1)
    norms = {}
    for optimiser in ("adam", "adamw"):
        config = build({"optimiser": optimiser, "weight_decay": 5.0, "lr": 0.01})
        head = Head(4, config)
        for generation in range(1, 20):
            head.epoch(logits[0], labels, generation=generation, kl_weight=0.0)
        norms[optimiser] = np.linalg.norm(head.layers()[0].weight)
    assert norms["adamw"] < 0.7 * norms["adam"]


def test_depth_three_has_three_matrices() -> None:
    head = Head(4, build({"head_depth": 3, "head_hidden": 7}))
    assert [layer.weight.shape for layer in head.layers()] == [(7, 4), (7, 7), (4, 7)]
    assert len(train(head, range(1, 2))[0].gradient_norms) == 3


def test_streams_follow_seed_head_and_generation() -> None:
    def first(config: FitConfig, index: int, generation: int) -> float:
        return train(Head(4, config, index=index), range(generation, generation + 1))[0].loss

    usual = first(CONFIG, 0, 1)
    assert first(CONFIG, 0, 1) == usual
    assert first(CONFIG, 0, 2) != usual
    assert first(CONFIG, 1, 1) != usual
    assert first(CONFIG.model_copy(update={"seed": 2}), 0, 1) != usual


def test_torchs_global_generator_and_threads_are_left_alone() -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(Head(4, CONFIG), range(1, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("depth", [2, 3])
def test_numpy_applies_the_head_as_torch_does(depth: int) -> None:
    config = build({"head_depth": depth, "head_hidden": 7})
    head = Head(4, config)
    logits, _ = some_logits(prompts=1)
    texts = Texts(("a", "b", "c", "d"))
    card = describe(texts, a_card(), method="craft", config={}, training={})
    ours = Adapter(card, None, head.layers()).refine(logits[0])
    np.testing.assert_allclose(ours, head.refine(logits[0]), rtol=1e-5, atol=1e-5)


def test_symmetric_kl_is_the_sum_of_both_directions_and_0_for_equals() -> None:
    (p, q, _), _ = some_logits()
    assert symmetric_kl(p, p) == pytest.approx(0, abs=1e-6)
    assert symmetric_kl(p, q) == pytest.approx((kl(p, q) + kl(q, p)).mean(), rel=1e-5)


def test_symmetric_kl_of_chunks_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = (8 * np.random.default_rng(seed).standard_normal((7, 3), np.float32) for seed in (1, 2))
    whole = symmetric_kl(p, q)
    monkeypatch.setattr(refine, "_CHUNK_VALUES", 2 * 3)
    assert symmetric_kl(p, q) == pytest.approx(whole, rel=1e-6)
