"""Loading models: by open_clip name, by local config, the embedded one; and clear refusals."""

import json
import os
import subprocess

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from craft_server.app import card_limits
from craft_server.models.clip.load import _image_key, load_clip, pick_device
from craft_server.models.clip.source import find_source
from craft_server.models.clip.vision import RECORD_FORMAT
from craft_server.settings import ModelError
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsRequest
from tests.support.serving import SCRIPTS, features_of, score, settings_in

pytestmark = pytest.mark.slow

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    for seed in range(3)
]
NAMES = ["cat", "grand piano"]


def load(folder, **fields):
    settings = settings_in(folder, **fields)
    return load_clip(settings, card_limits(settings))


def checkpoint(folder, name, kind="safetensors"):
    """Random weights of an open_clip model in a file; returns the model and the file."""
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(model.state_dict(), str(path))
    else:
        torch.save({"state_dict": model.state_dict()}, path)
    return model, path


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny-test.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return path


def scored(box, templates=("a photo of a {}.",)):
    request = LogitsRequest.model_validate(
        {
            "model": box.card.id,
            "image_set": "set_" + "0" * 32,
            "class_names": NAMES,
            "prompts": {"kind": "text", "templates": list(templates)},
        }
    )
    return score(box, request, features_of(box, PICTURES))


def expected(model, template="a photo of a {}."):
    """open_clip's own logits (N, K), through its own preprocessing."""
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(p) for p in PICTURES]), normalize=True)
        tokens = open_clip.SimpleTokenizer()([template.format(name) for name in NAMES])
        texts = model.encode_text(tokens, normalize=True)
        return (model.logit_scale.exp() * images @ texts.T).numpy()


def test_rn50_with_a_local_checkpoint_gives_open_clips_own_logits(tmp_path):
    model, path = checkpoint(tmp_path, "RN50")
    box = load(tmp_path, model="RN50", pretrained=str(path))
    assert box.card.id == "RN50::weights"
    assert (box.card.context_width, box.card.image_size) == (512, 224)
    assert np.abs(scored(box)[0] - expected(model)).max() < 1e-3


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_local_config_and_checkpoint_load_from_either_file_kind(tmp_path, config, kind):
    model, path = checkpoint(tmp_path, "tiny-test", kind)
    box = load(tmp_path, model=str(config), pretrained=str(path))
    assert box.card.id == "tiny-test::weights"
    assert box.card.text_path == "packed prefix"
    logits = scored(box, ["a photo of a {}.", "{}"])
    assert np.abs(logits[0] - expected(model)).max() < 1e-4
    assert np.abs(logits[1] - expected(model, "{}")).max() < 1e-4
    assert box.card.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_the_digest_is_the_weights_not_the_file_or_the_precision(tmp_path, config):
    _, path = checkpoint(tmp_path, "tiny-test")
    _, other = checkpoint(tmp_path, "tiny-test", "pt")
    first = load(tmp_path, model=str(config), pretrained=str(path))
    assert first.card.digest == load(tmp_path, model="tiny-test", pretrained=str(other)).card.digest
    half = load(tmp_path, model="tiny-test", pretrained=str(path), precision="bfloat16")
    assert first.card.digest == half.card.digest
    assert np.abs(scored(half) - scored(first)).max() < 0.5
    model, _ = checkpoint(tmp_path, "tiny-test")
    model.text_projection.data[0, 0] += 1e-3
    save_file(model.state_dict(), str(path))
    moved = load(tmp_path, model="tiny-test", pretrained=str(path))
    assert first.card.digest != moved.card.digest


def test_records_of_another_format_have_another_key(tmp_path, config, monkeypatch):
    _, path = checkpoint(tmp_path, "tiny-test")
    keys = {load(tmp_path, model=str(config), pretrained=str(path)).image_key}
    for number in (1, RECORD_FORMAT, RECORD_FORMAT + 1):
        monkeypatch.setattr("craft_server.models.clip.load.RECORD_FORMAT", number)
        keys.add(load(tmp_path, model=str(config), pretrained=str(path)).image_key)
    assert len(keys) == 3


def test_records_of_other_weights_preprocessing_or_precision_have_another_key(tmp_path, config):
    _, path = checkpoint(tmp_path, "tiny-test")
    plain = {"model": str(config), "pretrained": str(path)}
    keys = {load(tmp_path, **plain).image_key, load(tmp_path, **plain).image_key}
    assert len(keys) == 1
    keys.add(load(tmp_path, **plain, precision="bfloat16").image_key)
    other = PreprocessCfg(size=(32, 32), interpolation="bilinear")
    keys.add(_image_key(load(tmp_path, **plain).card, other))
    assert len(keys) == 3
    model, _ = checkpoint(tmp_path, "tiny-test")
    model.visual.layer1[0].conv1.weight.data[0, 0] += 1e-3
    save_file(model.state_dict(), str(path))
    keys.add(load(tmp_path, **plain).image_key)
    assert len(keys) == 4


def test_a_pickle_that_would_run_code_is_refused(tmp_path, config):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ModelError, match=r"evil\.pt: it holds posix\.mkdir, not weights alone"):
        load(tmp_path, model=str(config), pretrained=str(path))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.model."])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("module", "state_dict")])
def test_weights_under_other_names_are_the_same_model(tmp_path, config, prefix, nest):
    model, path = checkpoint(tmp_path, "tiny-test")
    plain = load(tmp_path, model=str(config), pretrained=str(path)).card.digest
    saved = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    for key in nest:
        saved = {"epoch": 3, key: saved}
    torch.save(saved, tmp_path / "wrapped.pt")
    wrapped = load(tmp_path, model="tiny-test", pretrained=str(tmp_path / "wrapped.pt"))
    assert wrapped.card.digest == plain


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, its archives are not gone
def test_a_torchscript_archive_is_the_same_model(tmp_path, config):
    model, path = checkpoint(tmp_path, "tiny-test")
    plain = load(tmp_path, model=str(config), pretrained=str(path)).card.digest
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    torch.jit.trace(model, inputs, check_trace=False).save(str(tmp_path / "script.pt"))
    script = load(tmp_path, model="tiny-test", pretrained=str(tmp_path / "script.pt"))
    assert script.card.digest == plain


def test_a_checkpoint_that_lacks_or_has_more_tensors_is_refused_in_a_sentence(tmp_path, config):
    model, path = checkpoint(tmp_path, "tiny-test")
    weights = model.state_dict()
    more = {f"other.{number}.{'x' * 300}": torch.ones(1) for number in range(500)}
    fewer = {name: tensor for name, tensor in weights.items() if "visual" not in name}
    for changed, says in ((weights | more, "500 tensors are unknown"), (fewer, "are missing")):
        save_file(changed, str(path))
        with pytest.raises(ModelError, match=f"does not fit tiny-test: .*{says}") as refused:
            load(tmp_path, model=str(config), pretrained=str(path))
        assert len(str(refused.value)) <= 200


@pytest.mark.parametrize(
    ("named", "like", "quick"),
    [("RN50.pt", None, True), ("own.pt", "cc12m", True), ("own.pt", None, False)],
)
def test_a_file_is_run_as_the_checkpoint_that_it_is(tmp_path, named, like, quick):
    (tmp_path / named).touch()
    fields = {"model": "RN50", "pretrained": str(tmp_path / named), "pretrained_like": like}
    source = find_source(settings_in(tmp_path, **fields))
    assert (source.recipe is not None and source.recipe.quick_gelu) == quick
    assert (source.assumed is None) == quick
    assert quick or "which checkpoint own.pt is: assumed is GELU, mean 0.481" in source.assumed


def test_what_a_file_is_prepared_like_reaches_the_model(tmp_path, caplog):
    _, path = checkpoint(tmp_path, "RN50")
    plain = load(tmp_path, model="RN50", pretrained=str(path))
    (said,) = [each.getMessage() for each in caplog.records if each.name.startswith("craft")]
    assert "assumed is GELU" in said
    quick = load(tmp_path, model="RN50", pretrained=str(path), pretrained_like="openai")
    assert plain.card.digest != quick.card.digest


@pytest.mark.parametrize("like", ["openai", "RN50::openai", "ViT-B-32::openai"])
def test_a_config_s_file_may_be_like_any_published_checkpoint(tmp_path, config, like):
    _, path = checkpoint(tmp_path, "tiny-test")
    plain = load(tmp_path, model=str(config), pretrained=str(path))
    quick = load(tmp_path, model=str(config), pretrained=str(path), pretrained_like=like)
    assert plain.card.digest != quick.card.digest


def test_a_checkpoint_is_read_once_for_half_precision(tmp_path, config, monkeypatch):
    from craft_server.models.clip import load as module

    _, path = checkpoint(tmp_path, "tiny-test")
    read, plain = [], module.read_weights
    monkeypatch.setattr(module, "read_weights", lambda file: read.append(file) or plain(file))
    load(tmp_path, model=str(config), pretrained=str(path), precision="float16")
    assert read == [path]


def test_a_siglip_like_tower_takes_text_only_and_says_so(tmp_path):
    uncut = CONFIG | {"custom_text": True, "init_logit_bias": -10.0}
    uncut["text_cfg"] = CONFIG["text_cfg"] | {"no_causal_mask": True, "pool_type": "last"}
    path = tmp_path / "uncut-test.json"
    path.write_text(json.dumps(uncut))
    open_clip.add_model_config(path)
    model, weights = checkpoint(tmp_path, "uncut-test")
    box = load(tmp_path, model=str(path), pretrained=str(weights))
    assert (box.card.text_path, box.card.prompt_kinds) == ("full length", ["text"])
    assert np.abs(scored(box)[0] - (expected(model) - 10)).max() < 1e-4
    soft = LogitsRequest.model_validate(
        {
            "model": box.card.id,
            "image_set": "set_" + "0" * 32,
            "class_names": NAMES,
            "prompts": {"kind": "soft", "context": "a photo of a"},
        }
    )
    with pytest.raises(Refusal) as caught:
        box.prepare(soft, np.zeros((1, 4, 64), np.float32))
    assert caught.value.code is Code.PROMPT_KIND_DENIED
    with pytest.raises(ModelError, match="takes text prompts only"):
        load(tmp_path, model=str(path), pretrained=str(weights), prompt_kinds=("soft",))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"model": "RN50", "pretrained": "openai", "pretrained_like": "openai"},
            "--pretrained-like openai is for a file, and --pretrained openai is a tag",
        ),
        ({"model": "RN51"}, "neither `embedded`, nor a .json config, nor an open_clip name"),
        ({"model": "absent.json"}, "absent.json does not exist"),
        ({"model": "RN50"}, "needs --pretrained: a checkpoint file or a tag; tags: openai"),
        ({"model": "RN50", "pretrained": "opanai"}, "neither a file nor a checkpoint tag"),
        *(
            ({"model": "RN50", "pretrained": "openai", "device": name}, f"device '{name}' is not")
            for name in ("tpu", "cuda:99", "cuda:-1", "cuda:", "cuda:x", "cpu:x", "CPU", "")
        ),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path, fields, says):
    with pytest.raises(ModelError, match=says):
        load(tmp_path, **fields)


def test_a_checkpoint_of_another_architecture_is_named(tmp_path, config):
    _, path = checkpoint(tmp_path, "tiny-test")
    with pytest.raises(ModelError, match="does not fit RN50"):
        load(tmp_path, model="RN50", pretrained=str(path))


def test_a_download_without_internet_says_what_to_do(tmp_path):
    """The real download path, with the hub switched off by its own switch."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run(
        [
            SCRIPTS / "craft-server",
            *("serve", "--model", "RN50", "--pretrained", "openai", "--data-dir", str(tmp_path)),
        ],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RN50::openai: the checkpoint could not be downloaded" in done.stderr
    assert "--pretrained /path/to/checkpoint --pretrained-like openai" in done.stderr
    assert "Traceback" not in done.stderr


def test_openai_checkpoints_run_with_the_activation_they_were_trained_with(tmp_path, monkeypatch):
    """RN50 as open_clip configures it has GELU; `openai` weights need QuickGELU."""
    from craft_server.models.clip import load as module

    asked = {}
    monkeypatch.setattr(
        module.open_clip, "create_model", lambda name, **options: asked.update(options) or 1 / 0
    )
    with pytest.raises(ModelError):
        load_clip(settings_in(tmp_path, model="RN50", pretrained="openai"), None)
    assert asked["force_quick_gelu"] is True


def test_devices_are_picked_or_refused():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


def test_a_tokenizer_that_is_not_clips_is_refused_before_weights_are_read(tmp_path):
    file = tmp_path / "weights.pt"
    file.touch()
    with pytest.raises(ModelError, match="ViT-B-16-SigLIP needs another tokenizer"):
        load(tmp_path, model="ViT-B-16-SigLIP", pretrained=str(file))
