"""`craft-server check` finds what is wrong with model, checkpoint and device, and loads nothing."""

import json
import re
import urllib.error
from contextlib import ExitStack

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from craft_server.checks import model as model_check
from craft_server.models.clip import downloads, load
from tests.support.planted import Fault, prepare, screen, troubles, world_in

pytestmark = pytest.mark.slow  # imports torch and open_clip

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder / "data")
    (folder / "tiny-check.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny-check.json")
    save_file(open_clip.create_model("tiny-check").state_dict(), folder / "tiny.safetensors")
    return folder


@pytest.fixture
def world(tmp_path, prepared, monkeypatch):
    """A world with a model of its own and a file of its weights."""
    with ExitStack() as held:
        world = world_in(tmp_path, prepared / "data", monkeypatch, held)
        world.config = prepared / "tiny-check.json"
        world.weights = prepared / "tiny.safetensors"
        world.set(model=world.config, pretrained=world.weights, device="cpu")
        yield world


def weights(data):
    return lambda world: world.set(pretrained=world.file("weights.pt", data))


def truncated(world):
    data = world.weights.read_bytes()
    world.set(pretrained=world.file("half.safetensors", data[: len(data) // 2]))


def tag(name, of="RN50"):
    return lambda world: world.set(model=of, pretrained=name)


def offline_hub(world):
    world.patch.setattr(constants, "HF_HUB_OFFLINE", True)
    world.patch.setattr(downloads, "try_to_load_from_cache", lambda *_: None)
    world.set(model="RN50", pretrained="openai")


def offline(error):
    def plant(world):
        def unreachable(*_, **__):
            raise error

        world.patch.setattr(downloads.urllib.request, "urlopen", unreachable)
        world.patch.setattr(downloads, "_CACHE", world.folder)
        world.set(model="RN50", pretrained="cc12m")
        config = open_clip.get_pretrained_cfg("RN50", "cc12m")
        world.patch.setitem(config, "hf_hub", "")

    return plant


def without_gpu(world):
    world.patch.setattr(torch.cuda, "is_available", lambda: False)
    world.set(device="cuda")


FAULTS = [
    Fault("no such card", lambda w: w.set(device="cuda:9"), "fail", "'cuda:9' is not here; avail"),
    Fault("no card", without_gpu, "fail", "'cuda' is not here; available: auto, .*cpu"),
    Fault(
        "no device", lambda w: w.set(device="tpu"), "fail", "device 'tpu' is not here; available"
    ),
    Fault("no model", lambda w: w.set(model="RN51"), "fail", "model 'RN51' is neither .*; names: "),
    Fault(
        "no config", lambda w: w.set(model="x.json"), "fail", "x.json does not exist; CRAFT_SERV"
    ),
    Fault(
        "half a config",
        lambda w: w.set(model=w.file("half.json", b'{"embed_dim": ')),
        "fail",
        "half.json is no JSON: ",
    ),
    Fault(
        "no tag", tag("opanai"), "fail", "'opanai' is neither a file nor a .* tag of RN50; tags: o"
    ),
    Fault("no file", tag("/nowhere/x.pt"), "fail", "'/nowhere/x.pt' is neither a file nor a check"),
    Fault(
        "a folder", lambda w: w.set(pretrained=w.data), "fail", "data is a folder: name the file"
    ),
    Fault("empty", weights(b""), "fail", "weights.pt: it is empty"),
    Fault("web page", weights(b"<!DOCTYPE html><p>login"), "fail", "weights.pt: it is a web page"),
    Fault(
        "pointer",
        weights(b"version https://git-lfs.github.com/spec/v1\n"),
        "fail",
        "pointer of Git",
    ),
    Fault(
        "noise", weights(b"\x00\x01" * 999), "fail", "weights.pt: it cannot be read: it is damaged"
    ),
    Fault("half", truncated, "fail", "half.safetensors: it cannot be read: it is damaged"),
    Fault(
        "other model",
        lambda w: w.set(model="RN50", pretrained=w.weights),
        "fail",
        "tiny.safetensors does not fit RN50: .*; give the weights of RN50",
    ),
    Fault(
        "unknown file",
        lambda w: w.set(model="RN50", pretrained=w.weights),
        "warn",
        "not known which checkpoint tiny.safetensors is: assumed is GELU.*--pretrained-like TAG",
    ),
    Fault(
        "like none",
        lambda w: w.set(pretrained_like="opanai"),
        "fail",
        "has no tag 'opanai' .*; say",
    ),
    Fault(
        "like a tag",
        lambda w: w.set(model="RN50", pretrained="openai", pretrained_like="openai"),
        "fail",
        "--pretrained-like openai is for a file",
    ),
    Fault(
        "hub offline",
        offline_hub,
        "fail",
        "RN50::openai is not on this machine and cannot be downloaded: HF_HUB_OFFLINE is set; "
        "fetch https://huggingface.co/.* elsewhere, then --pretrained .* --pretrained-like openai",
    ),
    Fault(
        "no network",
        offline(urllib.error.URLError("Name or service not known")),
        "fail",
        "RN50::cc12m is not .* github.com: Name or service not known; fetch https://github.com/.*"
        "--pretrained-like cc12m",
    ),
    Fault(
        "gone",
        offline(urllib.error.HTTPError("https://github.com/x", 404, "", None, None)),
        "fail",
        "cannot be downloaded: github.com answers 404; fetch ",
    ),
    Fault(
        "other tokenizer",
        lambda w: w.set(model="ViT-B-16-SigLIP", pretrained=w.weights),
        "fail",
        "ViT-B-16-SigLIP needs another tokenizer",
    ),
    Fault(
        "too large",
        lambda w: w.patch.setattr(model_check, "memory_bytes", lambda: 2**20),
        "fail",
        "tiny-check::tiny takes 0.0 GiB, and the machine has 0.0; take --precision float16",
    ),
    Fault(
        "batch",
        lambda w: w.set(encode_batch=10**9),
        "warn",
        "a pass of encode_batch 1000000000 images takes .*; lower CRAFT_SERVER_ENCODE_BATCH",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_a_planted_fault_is_found(craft_server, world, monkeypatch, fault):
    monkeypatch.setattr(model_check, "load_blackbox", lambda _: pytest.fail("it was loaded"))
    fault.plant(world)
    said = troubles(screen(craft_server, world))
    assert [line for line in said if re.search(f"^{fault.state} .*{fault.words}", line)], said


@pytest.mark.parametrize("options", [(), ("--load",)])
def test_nothing_is_found_where_nothing_is_planted(craft_server, world, options):
    found = screen(craft_server, world, *options)
    assert troubles(found) == []
    scored = [each["found"] for each in found if each["check"] == "forward"]
    assert scored == ["tiny-check::tiny is loaded and scores (packed prefix, float32)"] * len(
        options
    )


def test_the_embedded_model_is_whole(craft_server, world, monkeypatch):
    monkeypatch.delenv("CRAFT_SERVER_PRETRAINED")
    world.set(model="embedded")
    assert troubles(screen(craft_server, world)) == []
    monkeypatch.setattr(load, "_embedded_weights", lambda: {"a": torch.ones(1)})
    assert "embedded::1 cannot be made" in troubles(screen(craft_server, world))[0]


def test_a_model_that_does_not_score_is_found_by_loading_it(craft_server, world, monkeypatch):
    def fails(_):
        raise RuntimeError("the model gave a logit that is not finite")

    monkeypatch.setattr(model_check, "canary", fails)
    assert troubles(screen(craft_server, world)) == []
    (line,) = troubles(screen(craft_server, world, "--load"))
    assert "fail a test forward failed: the model gave a logit that is not finite; try" in line


def test_a_tag_that_is_here_is_not_asked_for(craft_server, world, monkeypatch):
    monkeypatch.setattr(downloads, "try_to_load_from_cache", lambda *_: str(world.weights))
    monkeypatch.setattr(downloads, "_trouble", lambda _: pytest.fail("it was asked for"))
    world.set(model="RN50", pretrained="openai")
    found = [each["found"] for each in screen(craft_server, world) if each["check"] == "model"]
    assert f"RN50::openai is on this machine: {world.weights}" in found
