"""An adapter is one file of safetensors, applied in numpy, for one model."""

import itertools
import json
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from craft_shared import tensors
from craft_shared.messages import ModelCard, OutputKind
from craft_tuner.adapter.adapter import Adapter, Layer, describe
from craft_tuner.blackbox import Texts
from craft_tuner.errors import UsageError, WrongModel
from tests.support.tuner_fakes import SmoothBox, a_card, a_task

TEXTS = Texts(("cat", "dog", "sea lion"), "a photo of a", ".")


def an_adapter(*, seed: int = 0, depth: int = 2, hidden: int = 5, classes: int = 3) -> Adapter:
    draw = np.random.RandomState(seed)
    widths = [classes, *(depth - 1) * [hidden], classes]
    head = tuple(
        Layer(draw.randn(o, i).astype(np.float32), draw.randn(o).astype(np.float32))
        for i, o in itertools.pairwise(widths)
    )
    texts = Texts(tuple(f"class {k}" for k in range(classes)))
    card = describe(
        texts, a_card(), method="craft", config={"seed": 1}, training={"generations": 9}
    )
    return Adapter(card, draw.randn(1, 4, 6).astype(np.float32), head)


def assert_same(one: Adapter, two: Adapter) -> None:
    assert one.card == two.card
    assert np.array_equal(one.offsets, two.offsets)
    for mine, yours in zip(one.head, two.head, strict=True):
        assert np.array_equal(mine.weight, yours.weight)
        assert np.array_equal(mine.bias, yours.bias)


@given(seed=st.integers(0, 99), depth=st.sampled_from([2, 3]), hidden=st.integers(1, 9))
def test_bytes_give_the_same_adapter_back(seed: int, depth: int, hidden: int) -> None:
    adapter = an_adapter(seed=seed, depth=depth, hidden=hidden)
    body = adapter.to_bytes()
    assert_same(Adapter.from_bytes(body), adapter)
    assert Adapter.from_bytes(body).to_bytes() == body


def test_the_safetensors_library_reads_it() -> None:
    adapter = an_adapter()
    arrays = load_safetensors(adapter.to_bytes())
    assert set(arrays) == {
        "offsets",
        "head.0.weight",
        "head.0.bias",
        "head.1.weight",
        "head.1.bias",
    }
    assert np.array_equal(arrays["offsets"], adapter.offsets)


def test_refine_is_the_residual_of_a_relu_network() -> None:
    adapter = an_adapter()
    logits = np.random.RandomState(3).randn(7, 3).astype(np.float32)
    (w0, b0), (w1, b1) = adapter.head
    expected = logits + np.maximum(logits @ w0.T + b0, 0) @ w1.T + b1
    np.testing.assert_allclose(adapter.refine(logits), expected, rtol=1e-6)
    assert adapter.refine(logits).dtype == np.float32
    assert np.array_equal(adapter.predict(logits), expected.argmax(axis=1))


def test_identity_changes_nothing_and_asks_in_plain_text() -> None:
    box = SmoothBox()
    task = a_task(box)
    adapter = Adapter.identity(task.texts, box.card, method="zero_shot", config={})
    raw, refined = adapter.logits(box, task.shots, purpose="test", step="test")
    assert np.array_equal(refined, raw)
    assert box.used == 1
    assert_identity = Adapter.from_bytes(adapter.to_bytes())
    assert assert_identity.offsets is None
    assert assert_identity.head == ()


def test_logits_asks_its_prompt_once_and_refines() -> None:
    box = SmoothBox()
    task = a_task(box)
    adapter = an_adapter()
    raw, refined = adapter.logits(box, task.shots, purpose="test", step="test")
    assert box.used == 1
    assert box.paid["test"].content == adapter.offsets.tobytes()
    assert raw.shape == (12, 3)
    assert np.array_equal(refined, adapter.refine(raw))


def a_bank(*, names: tuple[str, ...] | None, residual: float = 0.5) -> Adapter:
    """Two text prompts, a centre and one linear layer on all their logits."""
    draw = np.random.RandomState(1)
    card = describe(TEXTS, a_card(), method="bank", config={}, training={})
    extra = {"asked_names": names, "templates": ("a {}", "an {}"), "residual": residual}
    width = 2 * len(names or TEXTS.class_names)
    weight, bias, centre = draw.randn(3, width), draw.randn(3), draw.randn(width)
    layer = Layer(weight.astype(np.float32), bias.astype(np.float32))
    return Adapter(card.model_copy(update=extra), None, (layer,), centre.astype(np.float32))


NAMES = ("tree", *TEXTS.class_names[::-1], "house")


@pytest.mark.parametrize(
    ("names", "columns"), [(None, [0, 1, 2]), (NAMES, [3, 2, 1]), (("tree", "house"), None)]
)
def test_a_bank_is_a_linear_map_of_all_logits_beside_the_classes_own(names, columns) -> None:
    adapter = a_bank(names=names)
    again = Adapter.from_bytes(adapter.to_bytes())
    assert again.to_bytes() == adapter.to_bytes()
    assert adapter.prompts_per_image == 2
    logits = np.random.RandomState(2).randn(2, 7, len(names or TEXTS.class_names))
    logits = logits.astype(np.float32)
    x = np.hstack([logits[0], logits[1]]) - adapter.centre
    expected = x @ adapter.head[0].weight.T + adapter.head[0].bias
    if columns is not None:
        base = (logits[0] + logits[1])[:, columns] / 2
        np.testing.assert_allclose(adapter.base(logits), base, rtol=1e-6)
        expected = expected + 0.5 * base
    else:
        assert adapter.base(logits) is None
    np.testing.assert_allclose(again.refine(logits), expected, rtol=1e-5, atol=1e-5)


def test_without_layers_the_residual_weighs_the_mean_over_the_prompts() -> None:
    card = describe(TEXTS, a_card(), method="mean", config={}, training={})
    card = card.model_copy(update={"templates": ("a {}", "an {}"), "residual": 3.0})
    logits = np.random.RandomState(2).randn(2, 7, 3).astype(np.float32)
    np.testing.assert_allclose(Adapter(card).refine(logits), 3 * logits.mean(axis=0), rtol=1e-6)


def test_an_adapter_of_format_1_still_loads() -> None:
    adapter = an_adapter()
    arrays, _ = tensors.decode(adapter.to_bytes())
    card = adapter.card.model_dump(
        exclude={"templates", "asked_names", "relu", "residual", "output"}, mode="json"
    )
    old = tensors.encode(
        {**arrays, "offsets": adapter.offsets[0]}, {"card": json.dumps({**card, "format": 1})}
    )
    unknown = adapter.card.model_copy(update={"output": None})
    assert_same(Adapter.from_bytes(old), replace(adapter, card=unknown))


def test_an_adapter_for_another_model_is_refused_in_words() -> None:
    adapter = an_adapter()
    adapter.check(a_card())
    with pytest.raises(WrongModel, match=r"made for smooth::fake .* fit again on this one"):
        adapter.check(a_card(digest="e" * 64))


def disclosing(output: OutputKind) -> ModelCard:
    return a_card().model_copy(update={"output": output})


def test_a_head_is_refused_where_it_is_reported_other_outputs_than_its_fit() -> None:
    adapter = an_adapter()
    assert adapter.card.output == "logits"
    adapter.check(disclosing("rounded"))
    for output in ("log_probabilities", "top_k", "label"):
        with pytest.raises(WrongModel, match=f"to logits and the server discloses {output} to"):
            adapter.check(disclosing(output))
    labels = Adapter(adapter.card.model_copy(update={"output": "label"}), head=adapter.head)
    labels.check(disclosing("label"))
    with pytest.raises(WrongModel, match="use a key that gets the first or fit"):
        labels.check(disclosing("logits"))


def test_without_a_head_or_a_word_of_what_it_was_reported_any_output_will_do() -> None:
    adapter = an_adapter()
    of_old = Adapter(adapter.card.model_copy(update={"output": None}), head=adapter.head)
    for output in get_args(OutputKind):
        Adapter(adapter.card, adapter.offsets).check(disclosing(output))
        of_old.check(disclosing(output))


def test_logits_of_other_classes_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="logits of 1 prompts and 5 classes"):
        an_adapter().refine(np.zeros((2, 5), np.float32))


def test_it_loads_from_its_file_or_its_directory(tmp_path) -> None:
    adapter = an_adapter()
    (tmp_path / "adapter.safetensors").write_bytes(adapter.to_bytes())
    assert_same(Adapter.load(tmp_path), adapter)
    assert_same(Adapter.load(tmp_path / "adapter.safetensors"), adapter)
    assert Adapter.load(tmp_path).texts == Texts(("class 0", "class 1", "class 2"))


def test_a_missing_file_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the adapter .*No such file"):
        Adapter.load(tmp_path / "nothing.safetensors")


def damaged(**changes: np.ndarray | None) -> bytes:
    arrays, metadata = tensors.decode(an_adapter().to_bytes())
    for name, value in changes.items():
        arrays.pop(name.replace("_", "."), None)
        if value is not None:
            arrays[name.replace("_", ".")] = value
    return tensors.encode(arrays, metadata)


def with_card(**changes: object) -> bytes:
    arrays, metadata = tensors.decode(an_adapter().to_bytes())
    card = json.loads(metadata["card"]) | changes
    return tensors.encode(arrays, {"card": json.dumps(card)})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"not a tensor body", "is not a craft-tuner adapter"),
        (tensors.encode({}, {}), "is not a craft-tuner adapter"),
        (with_card(format=3), "adapter format 3, this version reads up to 2"),
        (with_card(surprise=1), "is not a craft-tuner adapter"),
        (damaged(head_0_bias=None), "unexpected tensors"),
        (damaged(extra=np.zeros(3, np.float32)), "unexpected tensors"),
        (damaged(head_1_bias=np.zeros(2, np.float32)), "a head of"),
        (damaged(head_0_weight=np.zeros((5, 4), np.float32)), "a head of"),
        (damaged(offsets=np.zeros((1, 4, 7), np.float32)), "its card says width 6"),
        (damaged(offsets=np.zeros(4, np.float32)), "its card says width 6"),
        (
            damaged(offsets=np.zeros((2, 4, 6), np.float32)),
            "a head of [(5, 3), (3, 5)] for 6 logits",
        ),
        (with_card(asked_names=["other"]), "a head of [(5, 3), (3, 5)] for 1 logits"),
        (damaged(head_centre=np.zeros(4, np.float32)), "head.centre has shape [4] for 3 logits"),
    ],
)
def test_a_damaged_adapter_is_refused_in_words(body: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Adapter.from_bytes(body)


def test_a_hundred_classes_take_less_than_two_megabytes() -> None:
    adapter = an_adapter(classes=100, hidden=256)
    assert len(adapter.to_bytes()) < 2_000_000
