"""Real open_clip architectures behind `load_clip`: the logits that are sold are open_clip's own.

Weights are random, the logit scale is 100, and the largest difference allowed in float32 is 1e-3.
The reference runs every text at full length through open_clip's modules. Half precision is
measured against float32, with the tolerance stated in `HALF`.
"""

import json
import math

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.nn import functional

from craft_server.app import card_limits
from craft_server.models.clip.load import load_clip
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsRequest
from tests.support.serving import features_of, score, settings_in

pytestmark = pytest.mark.slow

SCALE = 100.0
TOLERANCE = 1e-3
"""Largest difference of a float32 logit at scale 100."""

HALF = {"float16": 0.08, "bfloat16": 0.7}
"""Largest difference of a logit at scale 100 from float32's, by the towers' precision.

Seen on CPU: 0.026 and 0.23 with the embedded model, 0.020 and 0.14 with ViT-B-32's text tower.
"""

SIGLIP = "sigmoid-ViT-B-16"
"""open_clip's ViT-B-16-SigLIP with CLIP's vocabulary and tokenizer: its own is a download."""

PACKED = ["ViT-B-32", "ViT-B-16", "ViT-B-32-quickgelu", "RN50", "embedded"]
TOWERS = [
    pytest.param(name, marks=pytest.mark.long) if name in {"ViT-B-16", "RN50"} else name
    for name in (*PACKED, SIGLIP)
]
"""Long are those whose text parts the others have as well."""
EXAMPLES = {"embedded": 12, "ViT-B-32": 5, "ViT-B-16": 1}
FEW_EXAMPLES = 2
CONTEXT, SUFFIX = "a photo of a", "."
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for seed in range(2)
]

CLEANED_AWAY = [" ", "\t\n ", "\x00\x07", "\u200b", "\ufeff", "&nbsp;"]
ODD = ["grand piano", "GRAND  piano", "été", "日本", "🐈", "&lt;b&gt;", "a" * 60, "don't", "x-1.5"]
NAMES = st.lists(
    st.one_of(
        st.sampled_from(CLEANED_AWAY + ODD),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
    ),
    min_size=1,
    max_size=3,
)
TEMPLATES = st.lists(
    st.sampled_from(["a photo of a {}.", "{}", "so many {} here", "{} {{"]), min_size=1, max_size=3
)


# --- the towers ---------------------------------------------------------------------------------


class Shop:
    """A black box behind its port: the one place that calls it. The images are encoded once."""

    def __init__(self, box):
        self.card = box.card
        self._box = box
        self._features = features_of(box, PICTURES)

    def sell(self, names, prompts, offsets=None):
        """Logits (P, N, K)."""
        request = LogitsRequest.model_validate(
            {
                "model": self.card.id,
                "image_set": "set_" + "0" * 32,
                "class_names": names,
                "prompts": prompts,
            }
        )
        return score(self._box, request, self._features, offsets)


class Tower:
    """An open_clip model with random weights, and the shop that `load_clip` makes of it."""

    def __init__(self, name, folder):
        self.model = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(open_clip, "create_model", self._created(open_clip.create_model))
            patch.setattr("craft_server.models.clip.load.read_weights", lambda _: {})
            patch.setattr("craft_server.models.clip.load.load_weights", lambda *_: None)
            self.shop = Shop(load(folder, **fields_of(name, folder)))
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.shop.card.context_length)
        preprocessing = PreprocessCfg(**self.model.visual.preprocess_cfg)
        transform = image_transform_v2(preprocessing, is_train=False)
        with torch.inference_mode():
            pixels = torch.stack([transform(picture) for picture in PICTURES])
            self.images = self.model.encode_image(pixels, normalize=True)
        self.scale = self.model.logit_scale.exp().item()

    def _created(self, create):
        """`create_model` without reading a checkpoint: the model that it makes is remembered."""

        def random_model(name, **_):
            torch.manual_seed(0)
            self.model = create(name)
            self.model.logit_scale.data.fill_(math.log(SCALE))
            return self.model

        return random_model

    def expected(self, texts):
        """open_clip's own logits (N, K) for text features (K, D)."""
        bias = 0.0 if self.model.logit_bias is None else self.model.logit_bias.item()
        return (self.scale * self.images @ texts.T + bias).numpy()


def load(folder, **fields):
    settings = settings_in(folder, **fields)
    return load_clip(settings, card_limits(settings))


def fields_of(name, folder):
    """Settings of a tower; its checkpoint is never read."""
    if name == "embedded":
        return {"model": name}
    file = folder / "random.safetensors"
    file.touch()
    if name == SIGLIP:
        name = str(sigmoid_config(folder))
    return {"model": name, "pretrained": str(file)}


def sigmoid_config(folder):
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    del config["text_cfg"]["hf_tokenizer_name"], config["text_cfg"]["tokenizer_kwargs"]
    config["text_cfg"]["vocab_size"] = 49408
    path = folder / f"{SIGLIP}.json"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    return Tower(request.param, tmp_path_factory.mktemp("tower"))


def by_text(templates):
    return {"kind": "text", "templates": templates}


SOFT = {"kind": "soft", "context": CONTEXT, "suffix": SUFFIX}


def examples(tower):
    return EXAMPLES.get(tower.shop.card.id.split("::")[0], FEW_EXAMPLES)


def explore(tower, strategies, claim):
    """Check a claim on examples of strategies: more of them where the tower is small."""
    settings(deadline=None, max_examples=examples(tower))(given(**strategies)(claim))()


def offsets_for(tower, prompts, seed):
    """Offsets (P, 4, W) as large as the embeddings they move."""
    table = getattr(tower.model, "text", tower.model).token_embedding.weight
    draw = torch.randn(prompts, 4, table.shape[1], generator=torch.Generator().manual_seed(seed))
    return (3 * table.std() * draw).numpy()


@torch.inference_mode()
def soft_features(tower, names, offset):
    """(K, D) by open_clip's transformer over all positions, the context's embeddings moved."""
    model = tower.model
    ids = tower.tokenizer([f"{CONTEXT} {name}{SUFFIX}" for name in names])
    x = model.token_embedding(ids)
    x[:, 1 : 1 + len(offset)] += torch.from_numpy(offset)
    x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


def text_features(tower, template, names):
    texts = [template.replace("{}", name) for name in names]
    with torch.inference_mode():
        return tower.model.encode_text(tower.tokenizer(texts), normalize=True)


def soft_or_skip(tower):
    if "soft" not in tower.shop.card.prompt_kinds:
        pytest.skip("this tower takes text prompts only")


# --- float32 ------------------------------------------------------------------------------------


def test_the_tower_takes_the_path_its_architecture_allows(tower):
    wanted = "full length" if SIGLIP in tower.shop.card.id else "packed prefix"
    assert tower.shop.card.text_path == wanted
    assert tower.shop.card.logit_scale == pytest.approx(tower.scale)


def test_text_prompts_give_open_clips_own_logits(tower):
    def claim(names, templates):
        logits = tower.shop.sell(names, by_text(templates))
        for logit, template in zip(logits, templates, strict=True):
            expected = tower.expected(text_features(tower, template, names))
            assert np.abs(logit - expected).max() < TOLERANCE

    explore(tower, {"names": NAMES, "templates": TEMPLATES}, claim)


def test_soft_prompts_give_the_logits_of_moved_embeddings_at_full_length(tower):
    soft_or_skip(tower)

    def claim(names, prompts, seed):
        offsets = offsets_for(tower, prompts, seed)
        logits = tower.shop.sell(names, SOFT, offsets)
        for logit, offset in zip(logits, offsets, strict=True):
            expected = tower.expected(soft_features(tower, names, offset))
            assert np.abs(logit - expected).max() < TOLERANCE

    strategies = {"names": NAMES, "prompts": st.integers(1, 3), "seed": st.integers(0, 99)}
    explore(tower, strategies, claim)


def test_the_claim_can_fail(tower):
    """Random towers separate texts by far more than the tolerance, so that equality says much."""
    names = ["cat", "grand piano"]
    logits = tower.shop.sell(names, by_text(["a photo of a {}.", "{}"]))
    assert np.ptp(logits, axis=2).min() > 20 * TOLERANCE
    assert np.ptp(logits, axis=0).min() > 20 * TOLERANCE
    if "soft" in tower.shop.card.prompt_kinds:
        moved = tower.shop.sell(names, SOFT, offsets_for(tower, 2, 0))
        assert np.ptp(moved, axis=0).min() > 20 * TOLERANCE


def test_names_that_fill_the_context_are_exact_and_one_token_more_is_refused(tower):
    words = len(CONTEXT.split()) + len(SUFFIX) + 2
    free = tower.shop.card.context_length - words
    full, template = "a " * free, f"{CONTEXT} {{}}{SUFFIX}"
    expected = tower.expected(text_features(tower, template, [full, "cat"]))
    logits = tower.shop.sell([full, "cat"], by_text([template]))
    assert np.abs(logits[0] - expected).max() < TOLERANCE
    asked = [(by_text([template]), None)]
    if "soft" in tower.shop.card.prompt_kinds:
        offsets = offsets_for(tower, 1, 0)
        expected = tower.expected(soft_features(tower, [full, "cat"], offsets[0]))
        logits = tower.shop.sell([full, "cat"], SOFT, offsets)
        assert np.abs(logits[0] - expected).max() < TOLERANCE
        asked.append((SOFT, offsets))
    for prompts, offsets in asked:
        with pytest.raises(Refusal) as caught:
            tower.shop.sell(["cat", "a " * (free + 1)], prompts, offsets)
        assert caught.value.code is Code.TOO_MANY_TOKENS


def test_the_same_name_twice_has_the_same_logits(tower):
    names = ["cat", "grand piano", "cat", " CAT "]
    logits = tower.shop.sell(names, by_text(["a photo of a {}."]))
    assert np.abs(logits[:, :, [2, 3]] - logits[:, :, [0, 0]]).max() < TOLERANCE


# --- half precision -----------------------------------------------------------------------------

RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8}


def written(folder, name, vision, layers):
    """A model of this vision part and ViT-B-32's text part of `layers` layers, in files."""
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": TEXT | {"layers": layers}}
    path, weights = folder / f"{name}.json", folder / f"{name}.pt"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), weights)
    return {"model": str(path), "pretrained": str(weights)}


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("text of ViT-B-32", marks=pytest.mark.long)],
)
def half_shops(request, tmp_path_factory):
    """Shops by precision: of the embedded model, or of ViT-B-32's text tower, random."""
    folder = tmp_path_factory.mktemp("half")
    fields = {"model": "embedded"}
    if request.param != "embedded":
        fields = written(folder, "half-text", RESNET, 12)
    return {kind: Shop(load(folder, precision=kind, **fields)) for kind in ("float32", *HALF)}


def half_gap(shops, precision):
    """Largest differences of logits at scale 100 from float32's: text prompts, soft prompts."""
    exact, half = shops["float32"], shops[precision]
    factor = SCALE / exact.card.logit_scale
    names = ["cat", "grand piano", "été", "zero", "seven", "a " * 60]
    shape = (6, 4, exact.card.context_width)
    offsets = 0.05 * np.random.default_rng(0).standard_normal(shape, np.float32)
    gaps = []
    for prompts, moves in ((by_text(["a photo of a {}.", "{}"]), None), (SOFT, offsets)):
        both = [shop.sell(names, prompts, moves) for shop in (exact, half)]
        gaps.append(factor * float(np.abs(both[0] - both[1]).max()))
    return gaps


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_stays_within_the_stated_tolerance(half_shops, precision):
    assert half_shops[precision].card.dtype == precision
    assert max(half_gap(half_shops, precision)) < HALF[precision]


@pytest.mark.parametrize("precision", HALF)
def test_a_vision_transformer_encodes_images_in_half_precision(tmp_path, precision):
    fields = written(tmp_path, "half-vit", VIT, 1)
    exact = Shop(load(tmp_path, **fields))
    half = Shop(load(tmp_path, precision=precision, **fields))
    asked = ["cat", "grand piano"], by_text(["a photo of a {}."])
    gap = np.abs(half.sell(*asked) - exact.sell(*asked)).max()
    assert gap * SCALE / exact.card.logit_scale < HALF[precision]
