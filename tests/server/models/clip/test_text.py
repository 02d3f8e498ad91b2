"""The text encoder against open_clip's own `encode_text`, on small towers with random weights."""

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from craft_server.engine.blackbox import at_once
from craft_server.models.clip.packed import lay_out
from craft_server.models.clip.text import TextEncoder, can_be_cut
from craft_shared.errors import Code, Refusal
from craft_shared.messages import SoftPrompts, TextPrompts

pytestmark = pytest.mark.slow  # encodes with two models

TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TOWERS = {
    "clip": {},
    "quick gelu": {"quick_gelu": True},
    "custom text": {"custom_text": True},
    "linear projection": {"custom_text": True, "text_cfg": TEXT | {"proj_bias": True}},
    "no projection": {
        "custom_text": True,
        "embed_dim": 64,
        "text_cfg": TEXT | {"proj_type": "none"},
    },
    "layer scale": {"custom_text": True, "text_cfg": TEXT | {"ls_init_value": 0.3}},
    "eos pool": {"text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}},
}
UNCUT = {
    "not causal": {"custom_text": True, "text_cfg": TEXT | {"no_causal_mask": True}},
    "last token": {"custom_text": True, "text_cfg": TEXT | {"pool_type": "last"}},
    "class token": {"custom_text": True, "text_cfg": TEXT | {"embed_cls": True}},
}
TOKENIZER = open_clip.SimpleTokenizer(context_length=32)
NAMES = st.lists(st.text(max_size=12), min_size=1, max_size=4)


def build(changes):
    torch.manual_seed(0)
    config = {"embed_dim": 48, "text_cfg": TEXT, "vision_cfg": VISION} | changes
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return kind(**config).eval()


def encoder(model, *, full=None, pack=True):
    return TextEncoder(getattr(model, "text", model), TOKENIZER, full=full, pack=pack)


def reference(model, texts):
    with torch.inference_mode():
        return model.encode_text(TOKENIZER(texts), normalize=True).numpy()


MODELS = {name: build(changes) for name, changes in TOWERS.items()}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", TOWERS)
@settings(deadline=None, max_examples=15)
@given(names=NAMES, templates=st.sampled_from([["a photo of a {}."], ["{}", "so many {} here"]]))
def test_templates_equal_open_clips_own_path(name, pack, names, templates):
    model = MODELS[name]
    texts = encoder(model, pack=pack)
    longest = max(
        len(TOKENIZER.encode(template.replace("{}", name)))
        for template in templates
        for name in names
    )
    assume(longest + 2 <= 32)
    features = texts.encode(texts.plan_templates(templates, names)).numpy()
    for index, template in enumerate(templates):
        expected = reference(model, [template.replace("{}", name) for name in names])
        assert np.abs(features[index] - expected).max() < 2e-6


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", TOWERS)
def test_soft_prompts_equal_a_changed_embedding_table(name, pack):
    """An offset to the context equals moving those tokens' embeddings in open_clip itself."""
    model, names = build(TOWERS[name]), ["cat", "very long name indeed", "ox"]
    offsets = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(1))
    texts = encoder(model, pack=pack)
    plan = texts.plan_soft("a photo of the", names, ".", offsets)
    features = texts.encode(plan).numpy()
    table = getattr(model, "text", model).token_embedding
    original = table.weight.data.clone()
    context = TOKENIZER.encode("a photo of the")
    assert len(set(context)) == 4
    for index, offset in enumerate(offsets):
        table.weight.data = original.clone()
        table.weight.data[context] += offset
        expected = reference(model, [f"a photo of the {name}." for name in names])
        used_again = {
            i for i, name in enumerate(names) if set(TOKENIZER.encode(name)) & set(context)
        }
        for row in set(range(len(names))) - used_again:
            assert np.abs(features[index, row] - expected[row]).max() < 2e-6


def test_zero_offsets_are_the_text_itself():
    model = MODELS["clip"]
    texts = encoder(model)
    soft = texts.plan_soft("a photo of a", ["cat", "dog"], ".", torch.zeros(2, 4, 64))
    expected = reference(model, ["a photo of a cat.", "a photo of a dog."])
    assert np.abs(texts.encode(soft).numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("pack", [True, False])
def test_many_prompts_in_chunks_equal_one_at_a_time(pack, monkeypatch):
    texts = encoder(MODELS["clip"], pack=pack)
    offsets = torch.randn(7, 4, 64)
    together = texts.encode(texts.plan_soft("a photo of a", ["cat", "dog"], ".", offsets))
    monkeypatch.setattr("craft_server.models.clip.text._TOKENS_PER_PASS", {"cpu": 1})
    apart = texts.encode(texts.plan_soft("a photo of a", ["cat", "dog"], ".", offsets))
    assert torch.allclose(together, apart, atol=2e-6)
    plan = texts.plan_templates(["{}", "a {}"], ["cat", "dog"])
    assert texts.encode(plan).shape == (2, 2, 48)


def test_templates_that_differ_in_their_prefix_alone_are_one_pass():
    texts = encoder(MODELS["clip"])
    alike = ["a photo of a {}.", "a picture of a {}.", "the drawing of a {}."]
    names = ["cat", "sea lion"]
    plan = texts.plan_templates([*alike, "{} here", "an {} there", *alike[:1]], names)
    assert texts.pieces(plan) == (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6))
    together = texts.encode(plan)
    for place, template in enumerate([*alike, "{} here", "an {} there", *alike[:1]]):
        expected = reference(MODELS["clip"], [template.replace("{}", name) for name in names])
        assert np.abs(together[place].numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("prompts", [1, 5, 64])
def test_a_pass_of_templates_is_bounded_in_tokens(prompts, monkeypatch):
    monkeypatch.setattr("craft_server.models.clip.text._TOKENS_PER_PASS", {"cpu": 60})
    texts = encoder(MODELS["clip"])
    plan = texts.plan_templates(["a photo of a {}."] * prompts, ["cat", "sea lion"])
    tokens = texts.tokens_per_prompt(plan)
    pieces = texts.pieces(plan)
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert pieces[-1].stop == prompts
    assert max((piece.stop - piece.start) * tokens for piece in pieces) <= 60


@pytest.mark.parametrize("name", UNCUT)
def test_towers_that_cannot_be_cut_are_known_and_run_at_full_length(name):
    model = build(UNCUT[name])
    assert not can_be_cut(model.text)
    texts = encoder(model, full=model.encode_text)
    assert texts.path == "full length"
    features = texts.encode(texts.plan_templates(["a {}"], ["cat", "a longer name"])).numpy()
    assert np.abs(features[0] - reference(model, ["a cat", "a a longer name"])).max() < 2e-6


@pytest.mark.parametrize("name", TOWERS)
def test_causal_towers_of_plain_blocks_are_packed(name):
    assert can_be_cut(getattr(MODELS[name], "text", MODELS[name]))
    assert encoder(MODELS[name]).path == "packed prefix"
    assert encoder(MODELS[name], pack=False).path == "cut at end-of-text"


def test_blocks_that_are_not_plain_are_cut_and_exact():
    model = build({"custom_text": True, "text_cfg": TEXT | {"qk_norm": True}})
    texts = encoder(model)
    assert texts.path == "cut at end-of-text"
    features = texts.encode(texts.plan_templates(["a {}"], ["cat", "ox"])).numpy()
    assert np.abs(features[0] - reference(model, ["a cat", "a ox"])).max() < 2e-6


@settings(deadline=None, max_examples=25)
@given(names=st.lists(st.sampled_from(["x", "a cat", "sea lion", "a b c d e f"]), min_size=1))
def test_a_layout_holds_every_token_once_and_finds_every_end(names):
    rows = [(*TOKENIZER.encode(f"a photo of {name}"), 49407) for name in names]
    layout = lay_out(rows, 2)
    assert layout.tokens == 2 + sum(len(row) - 2 for row in rows)
    assert sum(group.texts for group in layout.groups) == len(rows)
    assert (layout.suffix[layout.ends] == 49407).all()
    for text, row in enumerate(rows):
        end = int(layout.ends[layout.order[text]])
        start = end - (len(row) - 3)
        assert tuple(layout.suffix[start : end + 1].tolist()) == row[2:]
        assert layout.positions[start : end + 1].tolist() == list(range(2, len(row)))


def refusal_of(call, *arguments):
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value


def test_a_text_that_does_not_fit_is_refused_not_cut():
    texts = encoder(MODELS["clip"])
    refusal = refusal_of(texts.plan_templates, ["{}"], ["cat " * 31])
    assert refusal.code is Code.TOO_MANY_TOKENS
    assert "takes 33 tokens, at most 32 fit" in refusal.detail
    texts.plan_templates(["{}"], ["cat " * 30])


@pytest.mark.parametrize("shape", [(1, 3, 64), (1, 5, 64), (1, 4, 63)])
def test_offsets_that_do_not_match_the_context_are_refused(shape):
    refusal = refusal_of(
        encoder(MODELS["clip"]).plan_soft, "a photo of a", ["cat"], ".", torch.zeros(shape)
    )
    assert refusal.code is Code.INVALID_REQUEST
    assert "(P, 4, 64) is needed" in refusal.detail


class Melting:
    """A tokenizer that merges across words, as none of CLIP's does but one could."""

    sot_token_id, eot_token_id = 49406, 49407

    def encode(self, text):
        return [len(text)]


def test_a_context_that_melts_into_the_class_name_is_refused():
    texts = TextEncoder(MODELS["clip"], Melting())
    refusal = refusal_of(texts.plan_soft, "a photo", ["cat"], ".", torch.zeros(1, 1, 64))
    assert refusal.code is Code.INVALID_REQUEST
    assert "does not stay apart from class name 'cat'" in refusal.detail


# --- counting -----------------------------------------------------------------------------------

ODD_NAMES = [
    "cat",
    "Sea-Lion's",
    "漢字" * 8,
    "漢" * 200,
    "😀" * 6,
    "😀" * 120,
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 3,
    "x" * 256,
    "a " * 26,
    "a " * 27,
    "&amp;lt;",
    "&amp;" * 20,
    "ﬁ ½ Ⅷ",
]


def told_of(plan):
    try:
        plan()
    except Refusal as refusal:
        return refusal.code, refusal.detail
    return None


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("words", ["text", "soft"])
def test_texts_are_counted_as_they_are_planned(name, words):
    text = encoder(MODELS["clip"])
    if words == "text":
        prompts = TextPrompts(templates=["a photo of a {}.", "{}"])
        refused = told_of(lambda: text.plan_templates(prompts.templates, ["dog", name]))
        theirs = f"a photo of a {name}."
    else:
        prompts, offsets = SoftPrompts(context="a photo of a"), torch.zeros(1, 4, 64)
        refused = told_of(lambda: text.plan_soft("a photo of a", ["dog", name], ".", offsets))
        theirs = f"a photo of a {name}."
    counted = at_once(encoder(MODELS["clip"]).count_in_steps(prompts, ["dog", name]))
    told = [(refusal.code, refusal.detail) for _, refusal in counted.refused]
    assert told[:1] == ([refused] if refused else [])
    assert counted.context == (4 if words == "soft" else None)
    if refused is None:
        assert counted.longest == len(TOKENIZER.encode(theirs)) + 2


def test_a_context_that_melts_into_a_class_name_is_that_names_fault():
    texts = TextEncoder(MODELS["clip"], Melting())
    refused = told_of(lambda: texts.plan_soft("a photo", ["cat"], ".", torch.zeros(1, 1, 64)))
    counted = at_once(texts.count_in_steps(SoftPrompts(context="a photo"), ["cat"]))
    assert [(each.code, each.detail) for _, each in counted.refused] == [refused]


def test_a_context_that_is_too_long_is_no_names_fault():
    prompts = SoftPrompts(context="very " * 40)
    with pytest.raises(Refusal, match="at most 32 fit"):
        at_once(encoder(MODELS["clip"]).count_in_steps(prompts, ["cat"]))
