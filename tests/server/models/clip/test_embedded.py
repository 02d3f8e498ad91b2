"""The embedded model is what its card says, and the script that made it runs."""

import hashlib
import importlib.resources
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from craft_server.app import card_limits
from craft_server.models.clip.load import load_clip
from craft_shared.messages import LogitsRequest
from tests.support.paths import ROOT
from tests.support.serving import features_of, score, settings_in

FOLDER = importlib.resources.files("craft_server") / "embedded"
CARD = json.loads((FOLDER / "card.json").read_text())


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    settings = settings_in(tmp_path_factory.mktemp("embedded"), model="embedded")
    return load_clip(settings, card_limits(settings))


def zero_shot(box, images):
    request = LogitsRequest.model_validate(
        {
            "model": box.card.id,
            "image_set": "set_" + "0" * 32,
            "class_names": CARD["task"]["class_names"],
            "prompts": {"kind": "text", "templates": ["a photo of a {}."]},
        }
    )
    logits = score(box, request, features_of(box, images))
    return logits[0].argmax(axis=1)


def test_the_weights_are_the_cards():
    weights = (FOLDER / "weights.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == CARD["weights_sha256"]
    assert len(weights) == CARD["weights_bytes"] < 5_000_000


@pytest.mark.slow
def test_zero_shot_on_handwritten_digits_is_the_cards_figure(box):
    digits = load_digits()
    images = [
        Image.fromarray((cells * (255 / 16)).round().astype(np.uint8))
        .convert("RGB")
        .resize((32, 32), Image.Resampling.BICUBIC)
        for cells in digits.images
    ]
    accuracy = 100 * (zero_shot(box, images) == digits.target).mean()
    assert accuracy == pytest.approx(
        CARD["figures_percent"]["handwritten_digits_zero_shot"], abs=0.3
    )


def test_printed_digits_are_read(box):
    pictures = [
        Image.open(ROOT / "docs" / "examples" / f"{name}.png") for name in ("three", "seven")
    ]
    assert zero_shot(box, [picture.convert("RGB") for picture in pictures]).tolist() == [3, 7]


def test_words_it_never_saw_are_zero_rows(box):
    table = box._text._tower.token_embedding.weight
    used = int((table.abs().sum(dim=1) > 0).sum())
    assert 0 < used < 1000
    assert table.shape == (49408, box.card.context_width)


def test_a_records_bits_do_not_depend_on_the_company_in_its_batch(box):
    """Nor, beyond rounding, on the size of the batch."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    pixels = [box.preprocess(Image.fromarray(values)) for values in noise]
    together = box.encode_images(pixels)
    assert box.encode_images(pixels[:32] + pixels[:32])[:32] == together[:32]
    alone = box.load_features(box.encode_images(pixels[:1]))
    assert (alone - box.load_features(together[:1])).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.long
def test_the_training_script_runs(tmp_path):
    command = [sys.executable, "-m", "scripts.train_embedded", "--smoke", "--out", tmp_path]
    subprocess.run(command, check=True, cwd=ROOT)
    assert {path.name for path in tmp_path.iterdir()} == {"embedded.json", "weights.safetensors"}
