"""A file is run as the tag that would download it: for every tag that open_clip lists."""

import hashlib
from pathlib import Path, PurePosixPath

import open_clip
import pytest

from craft_server.models.clip.published import (
    assumption,
    default_recipe,
    recipe_of,
    recipe_of_file,
)
from craft_server.settings import ModelError


def text_config(name):
    return open_clip.get_model_config(name)["text_cfg"]


TAGS = [
    (name, tag)
    for name, tag in open_clip.list_pretrained()
    if "SigLIP" in text_config(name).get("hf_tokenizer_name", "SigLIP")
]
pytestmark = pytest.mark.slow  # some 150 tags

FIELDS = ("mean", "std", "interpolation", "resize_mode")


def test_the_table_has_all_tags_of_both_tokenizers():
    assert len(TAGS) > 150
    assert {"RN50", "ViT-B-16-SigLIP", "MobileCLIP-S1", "PE-Core-B-16"} <= {
        name for name, _ in TAGS
    }


def downloads(name, tag):
    """Where a tag's file may lie: in the hub's cache, in a clone, named as on its page, renamed."""
    config = open_clip.get_pretrained_cfg(name, tag)
    if repository := config["hf_hub"].rpartition("/")[0]:
        cached = "models--" + repository.replace("/", "--")
        yield Path("hub") / cached / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
        yield Path(repository) / "open_clip_pytorch_model.bin"
    if config["url"]:
        yield Path(PurePosixPath(config["url"]).name)
    yield Path(f"{tag}.safetensors")
    yield Path(f"{name}_{tag.upper()}.pt")
    yield Path(tag) / "open_clip_model.safetensors"


@pytest.mark.parametrize(("name", "tag"), TAGS, ids=[f"{name}::{tag}" for name, tag in TAGS])
def test_a_file_is_run_as_its_tag(name, tag):
    config = open_clip.get_pretrained_cfg(name, tag)
    wanted = recipe_of(name, tag)
    assert dict(wanted.preprocess) == {field: config[field] for field in FIELDS}
    own = open_clip.get_model_config(name).get("quick_gelu", False)
    assert wanted.quick_gelu is (config.get("quick_gelu", False) or own)
    for file in downloads(name, tag):
        assert recipe_of_file(name, file) == wanted, file
    assert recipe_of_file(name, Path("weights.pt"), tag) == wanted


@pytest.mark.parametrize(("name", "tag"), TAGS, ids=[f"{name}::{tag}" for name, tag in TAGS])
def test_what_is_not_known_is_said_where_it_matters(name, tag):
    """Never another tag's recipe without a word."""
    wanted, tags = recipe_of(name, tag), open_clip.list_pretrained_tags_by_model(name)
    for file in map(Path, ("open_clip_model.safetensors", "weights.pt", "openaix.pt")):
        found, said = recipe_of_file(name, file), assumption(name, file)
        if found is None and wanted != default_recipe(name):
            assert said is not None
            assert f"--pretrained-like TAG: {', '.join(tags)}" in said
        elif found is not None:
            assert found == wanted


@pytest.mark.parametrize("at", [0, 8])
def test_a_renamed_file_is_known_by_the_digest_in_its_address(tmp_path, monkeypatch, at):
    file = tmp_path / "renamed.pt"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    url = (
        f"https://openaipublic.azureedge.net/clip/models/{digest}/RN50.pt",
        f"https://github.com/mlfoundations/open_clip/releases/x/rn50-{digest[:8]}.pt",
    )[bool(at)]
    config = open_clip.get_pretrained_cfg("RN50", "openai")
    monkeypatch.setitem(config, "url", url)
    assert recipe_of_file("RN50", file) == recipe_of("RN50", "openai")
    file.write_bytes(b"others")
    assert recipe_of_file("RN50", file) is None


def test_a_tag_that_is_a_part_of_another_is_not_taken_for_it():
    for file in ("laion2b_s13b_b82k_augreg.pt", "laion2b-s13b-b82k-augreg.pt"):
        assert recipe_of_file("convnext_base_w", Path(file)) is not None
    assert recipe_of_file("ViT-L-14", Path("dfn2b_s39b.pt")) == recipe_of("ViT-L-14", "dfn2b_s39b")
    assert recipe_of_file("ViT-L-14", Path("dfn2b.pt")).quick_gelu
    assert recipe_of_file("ViT-B-32", Path("myopenai.pt")) is None


def test_a_tag_that_there_is_not_is_refused():
    with pytest.raises(ModelError, match=r"RN50 has no tag 'opanai'.*tags: openai, yfcc15m"):
        recipe_of_file("RN50", Path("weights.pt"), "opanai")


@pytest.mark.parametrize(
    ("like", "recipe"),
    [
        ("openai", ("RN50", "openai")),
        ("RN50::openai", ("RN50", "openai")),
        ("ViT-B-16-SigLIP::webli", ("ViT-B-16-SigLIP", "webli")),
        ("metaclip_fullcc", ("ViT-H-14-quickgelu", "metaclip_fullcc")),
    ],
)
def test_a_config_of_ones_own_may_be_run_as_any_tag(like, recipe):
    assert recipe_of_file("own-config", Path("weights.pt"), like) == recipe_of(*recipe)


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ("opanai", "own-config has no tag 'opanai'.*say MODEL::TAG, as in RN50::openai"),
        ("RN51::openai", "own-config has no tag 'RN51::openai'"),
        ("laion400m_e32", "is run in 2 ways; say whose tag it is: .*ViT-B-32::laion400m_e32"),
    ],
)
def test_a_tag_that_means_nothing_or_several_things_to_a_config_is_refused(like, says):
    with pytest.raises(ModelError, match=says):
        recipe_of_file("own-config", Path("weights.pt"), like)
