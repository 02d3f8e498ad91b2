"""Where a model comes from: the embedded one, an open_clip name, or a local config.

Owns what the settings mean; nothing of a checkpoint is read here but, to know which one it is, its
digest.
"""

import importlib.resources
import json
from pathlib import Path
from typing import Any, NamedTuple

import open_clip

from craft_server.models.clip.published import Recipe, assumption, recipe_of, recipe_of_file
from craft_server.settings import EMBEDDED, ModelError, Settings

_PARTS = ("embed_dim", "vision_cfg", "text_cfg")
"""What open_clip wants of a config."""


class Source(NamedTuple):
    """Where a model comes from, as open_clip sees it.

    `recipe` is what the checkpoint was trained with: `RN50::openai` needs QuickGELU although the
    architecture `RN50` does not say so, and gives quietly worse logits without. `assumed` is to
    be said where it is not known.
    """

    name: str
    pretrained: str | None
    id: str
    recipe: Recipe | None = None
    assumed: str | None = None


def find_source(settings: Settings) -> Source:
    """The model that the settings name, registered with open_clip.

    Raises:
        ModelError: no such model, or no checkpoint named for it.
    """
    name, pretrained = settings.model, settings.pretrained
    if name == EMBEDDED:
        config = importlib.resources.files("craft_server") / "embedded" / "embedded.json"
        open_clip.add_model_config(Path(str(config)))
        return Source(EMBEDDED, None, f"{EMBEDDED}::1")
    if name.endswith(".json"):
        config_path = Path(name)
        _check_config(config_path)
        open_clip.add_model_config(config_path)
        name = config_path.stem
    if name not in open_clip.list_models():
        raise ModelError(
            f"model {name!r} is neither `{EMBEDDED}`, nor a .json config, nor an open_clip name; "
            f"names: {', '.join(open_clip.list_models()[:8])}, ..."
        )
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(f"{name} needs --pretrained: a checkpoint file or a tag; tags: {tags}")
    label = Path(pretrained).stem if Path(pretrained).exists() else pretrained
    recipe, assumed = _recipe(name, pretrained, settings.pretrained_like)
    return Source(name, pretrained, f"{name}::{label}", recipe, assumed)


def _check_config(path: Path) -> None:
    """Refuse what open_clip would keep, and fail at whenever it is asked again.

    Raises:
        ModelError: there is no such file, or it is no config.
    """
    if not path.is_file():
        raise ModelError(f"model config {path} does not exist")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model config {path} is no JSON: {error}") from error
    lacks = [each for each in _PARTS if not isinstance(config, dict) or each not in config]
    if lacks:
        raise ModelError(f"model config {path} has no {' and no '.join(lacks)}")


def _recipe(name: str, pretrained: str, like: str | None) -> tuple[Recipe | None, str | None]:
    """How to run a checkpoint, if that is known, and what is assumed if it is not.

    Raises:
        ModelError: `pretrained_like` is no tag, or is said of a tag.
    """
    file = Path(pretrained)
    if open_clip.get_pretrained_cfg(name, pretrained):
        if like is not None:
            raise ModelError(
                f"--pretrained-like {like} is for a file, and --pretrained {pretrained} is a tag"
            )
        return recipe_of(name, pretrained), None
    if not file.is_file():
        return None, None
    recipe = recipe_of_file(name, file, like)
    return recipe, None if recipe else assumption(name, file)


def load_tokenizer(name: str) -> Any:
    """CLIP's tokenizer of an open_clip model.

    Raises:
        ModelError: the model needs another one.
    """
    try:
        tokenizer = open_clip.get_tokenizer(name)
    except ImportError as error:
        raise ModelError(f"{name} needs another tokenizer than CLIP's: {error}") from error
    if not hasattr(tokenizer, "sot_token_id"):
        raise ModelError(f"{name} does not use CLIP's tokenizer; only that one is supported")
    return tokenizer
