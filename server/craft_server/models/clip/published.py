"""How the weights in a file are to be run: as the published checkpoint that the file is.

open_clip knows of every tag how its images are prepared and which activation it was trained with,
and of a file nothing. Owns which tag a file is: said by the operator, or seen from the name that
its download has, from its folder, or from the digest that a tag's address states.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.transform import PreprocessCfg

from craft_server.settings import ModelError

_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


class Recipe(NamedTuple):
    """What a checkpoint needs beside its architecture, as open_clip takes it."""

    quick_gelu: bool
    preprocess: tuple[tuple[str, Any], ...]
    """Name -> value of mean, std, interpolation and resize_mode."""

    def __str__(self) -> str:
        activation = "QuickGELU" if self.quick_gelu else "GELU"
        values = (f"{name} {_plain(value)}" for name, value in self.preprocess)
        return ", ".join([activation, *values])


def recipe_of(name: str, tag: str) -> Recipe:
    """Of a tag."""
    return _recipe(name, open_clip.get_pretrained_cfg(name, tag))


def default_recipe(name: str) -> Recipe:
    """What open_clip does with a file of which nothing is known."""
    return _recipe(name, asdict(PreprocessCfg()))


def recipe_of_file(name: str, file: Path, like: str | None = None) -> Recipe | None:
    """Of the checkpoint that a file is; None if that cannot be known.

    Args:
        name: of the model, as open_clip has it.
        file: with the weights; it is read only where its address would state its digest.
        like: the tag, if somebody says it; of another model, as MODEL::TAG.

    Raises:
        ModelError: there is no such tag.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if like is not None:
        return _recipe_like(name, tags, like)
    for found in _guesses(name, tags, file):
        recipes = {recipe_of(name, tag) for tag in found}
        if len(recipes) == 1:
            return recipes.pop()
    return None


def assumption(name: str, file: Path) -> str | None:
    """What is to be said of a file that is no known checkpoint; None if all tags are run alike."""
    assumed, tags = default_recipe(name), open_clip.list_pretrained_tags_by_model(name)
    if all(recipe_of(name, tag) == assumed for tag in tags):
        return None
    return (
        f"it is not known which checkpoint {file.name} is: assumed is {assumed}; "
        f"if it is a published one of {name}, say which with --pretrained-like TAG: "
        f"{', '.join(tags)}"
    )


def _recipe_like(name: str, tags: list[str], like: str) -> Recipe:
    """By the operator's word; a model that open_clip does not list may be run as any that it does.

    Raises:
        ModelError: there is no such tag, or it means different things.
    """
    model, _, tag = like.rpartition("::")
    listed = [model or name] if model or tags else open_clip.list_pretrained_models_by_tag(tag)
    found = [each for each in listed if open_clip.get_pretrained_cfg(each, tag)]
    recipes = {recipe_of(each, tag) for each in found}
    if not recipes:
        known = f"tags: {', '.join(tags)}" if tags else "say MODEL::TAG, as in RN50::openai"
        raise ModelError(f"{name} has no tag {like!r} that --pretrained-like could mean; {known}")
    if len(recipes) > 1:
        raise ModelError(
            f"--pretrained-like {like} is run in {len(recipes)} ways; say whose tag it is: "
            f"{', '.join(f'{each}::{tag}' for each in found)}"
        )
    (recipe,) = recipes
    return recipe._replace(quick_gelu=recipe.quick_gelu or _is_quick(name))


# --- which tag a file is ------------------------------------------------------------------------


def _guesses(name: str, tags: list[str], file: Path) -> Iterator[list[str]]:
    """Tags that the file may be, the surest guess first."""
    yield [tag for tag in tags if _repository(name, tag) in _folders(file)]
    yield _longest(tag for tag in tags if _says(file.stem, tag) or _says(file.parent.name, tag))
    yield [tag for tag in tags if file.name.lower() in _downloads(name, tag)]
    yield _by_digest(name, tags, file)


def _downloads(name: str, tag: str) -> set[str]:
    """What the file is called that a tag downloads, in small letters."""
    config = open_clip.get_pretrained_cfg(name, tag)
    names = {PurePosixPath(config.get("url", "")).name, *hub_files(config)[1]}
    return {each.lower() for each in names if each}


def hub_files(config: dict[str, Any]) -> tuple[str, list[str]]:
    """Of a tag's configuration: `owner/name` on the Hugging Face hub, and its files, or nothing.

    open_clip tries the first of the files first.
    """
    repository, _, stated = str(config.get("hf_hub", "")).rpartition("/")
    if not repository:
        return "", []
    stated = stated or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if stated == HF_WEIGHTS_NAME else ""
    return repository, [safe or f"{PurePosixPath(stated).stem}.safetensors", stated]


def _repository(name: str, tag: str) -> str:
    """`owner/name` on the Hugging Face hub, in small letters."""
    return hub_files(open_clip.get_pretrained_cfg(name, tag))[0].lower()


def _folders(file: Path) -> set[str]:
    """Repositories that the folders above a file may be: of the hub's cache, or cloned."""
    parts = [part.lower() for part in file.absolute().parts[:-1]]
    cached = {
        part.removeprefix("models--").replace("--", "/")
        for part in parts
        if part.startswith("models--")
    }
    return cached | {f"{one}/{other}" for one, other in itertools.pairwise(parts)}


def _says(text: str, tag: str) -> bool:
    """Is a tag a whole word of a name, whatever joins the words?"""
    joined = re.escape(tag).replace("_", "[-_]")
    return re.search(rf"(?<![a-z0-9]){joined}(?![a-z0-9])", text.lower()) is not None


def _longest(tags: Iterable[str]) -> list[str]:
    """Without those that are a part of another."""
    found = list(tags)
    return [tag for tag in found if not any(tag in other for other in found if other != tag)]


def _by_digest(name: str, tags: list[str], file: Path) -> list[str]:
    """OpenAI's addresses state a SHA-256, those of open_clip's own releases its beginning."""
    stated = {tag: _stated_digest(name, tag) for tag in tags}
    if not any(stated.values()) or not file.is_file():
        return []
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return [tag for tag, start in stated.items() if start and digest.startswith(start)]


def _stated_digest(name: str, tag: str) -> str:
    url = PurePosixPath(open_clip.get_pretrained_url(name, tag))
    if "openaipublic" in str(url):
        return url.parent.name
    return url.stem.rpartition("-")[2] if "mlfoundations" in str(url) else ""


def _recipe(name: str, config: dict[str, Any]) -> Recipe:
    preprocess = tuple((key, config[key]) for key in _PREPROCESS)
    return Recipe(bool(config.get("quick_gelu", False)) or _is_quick(name), preprocess)


def _is_quick(name: str) -> bool:
    """Does an architecture have QuickGELU whatever its weights?"""
    return bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))


def _plain(value: Any) -> str:
    return " ".join(f"{each:.3g}" for each in value) if isinstance(value, tuple) else str(value)
