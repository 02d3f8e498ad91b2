"""Weights from a file: safetensors, a checkpoint of torch, or a TorchScript archive.

Nothing in the file is executed: of its pickles, only tensors and what holds them are built. Owns
how names in a file become a model's, and what is said of a file that has no weights.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from safetensors.torch import load_file
from torch import Tensor

from craft_server.models.clip.script_archive import is_script_archive, read_script_archive
from craft_server.settings import ModelError

LONGEST = 200
"""Characters of a sentence about a file."""

_NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where trainers put the weights in a checkpoint, most specific first."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data-parallel training, `torch.compile` and trainers put before every name."""
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "n_averaged")
"""Tensors that say how a model was made or trained."""
_CODE_BYTES = 2**25
"""More than the code of a TorchScript archive has."""
_POSITION_IDS = "text.transformer.embeddings.position_ids"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, in the names of open_clip's models.

    Raises:
        ModelError: the file cannot be read, or has no weights; at most `LONGEST` characters.
    """
    try:
        found = _unwrapped(_read(path))
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, _more_than_weights(str(error))) from error
    except Exception as error:  # every reader has its own
        raise _refused(path, "it cannot be read: it is damaged, or no file of weights") from error
    if not found:
        raise _refused(path, "it has no tensors by name, as a state_dict has")
    if odd := [name for name, value in found.items() if not _is_plain(value)]:
        why = "are sparse, quantized, complex, or larger than what is stored of them"
        raise _refused(path, f"{len(odd)} tensors {why}, as {odd[0][:40]!r}")
    return found


def load_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Put weights into a model of open_clip, as its own `load_checkpoint` does with a file's.

    Raises:
        ModelError: names or shapes are not the model's.
    """
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    wanted = model.state_dict()
    for name in weights.keys() & wanted.keys():
        if weights[name].numel() == wanted[name].numel() == 1:  # a number, or a list of one
            weights[name] = weights[name].reshape(wanted[name].shape)
    if "logit_bias" in wanted and "logit_scale" in weights:
        weights.setdefault("logit_bias", torch.zeros_like(wanted["logit_bias"]))
    for name in {_POSITION_IDS, *(name for name, _ in model.named_buffers())} - wanted.keys():
        weights.pop(name, None)  # what a model computes for itself, such as a mask
    resize_pos_embed(weights, model)
    resize_text_pos_embed(weights, model)
    shapes = [
        each for each in wanted if each in weights and wanted[each].shape != weights[each].shape
    ]
    loaded = None if shapes else model.load_state_dict(weights, strict=False)
    kinds = {
        "of another shape": shapes,
        "missing": loaded.missing_keys if loaded else [],
        "unknown": loaded.unexpected_keys if loaded else [],
    }
    misfits = [
        f"{len(names)} tensors are {kind}, as {names[0][:40]}"
        for kind, names in kinds.items()
        if names
    ]
    if misfits:
        raise ModelError("; ".join(misfits))


# --- files --------------------------------------------------------------------------------------


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(256)
    trouble = _no_weights(head)
    if trouble:
        raise _refused(path, trouble)
    if head[8:9] == b"{":
        return load_file(str(path))
    if zipfile.is_zipfile(path):
        if _unfolds(path):
            raise _refused(path, "it is a compressed archive, which weights are not; unpack it")
        if is_script_archive(path):
            return read_script_archive(path)
    with warnings.catch_warnings(), path.open("rb") as file:  # torch goes by a path's ending
        warnings.simplefilter("ignore")  # of old ways to store tensors
        return torch.load(file, map_location="cpu", weights_only=True)


def _no_weights(head: bytes) -> str | None:
    """What a file is that was taken for weights; None if it may be some."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")):
        return "it is a web page, as a download gives that needs a login"
    if start.startswith((b"{", b"[")) and head[8:9] != b"{":
        return "it is JSON, not weights; name the file that it describes"
    if start.startswith(b"gguf"):
        return "it is GGUF; weights are safetensors or a checkpoint of torch"
    return None


def _unwrapped(found: Any) -> dict[str, Tensor]:
    while isinstance(found, dict):
        inner = next((found[key] for key in _NESTED if isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, dict):
        return {}
    weights = {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor) and name not in _NO_WEIGHTS
    }
    while prefix := next((each for each in _PREFIXES if _all_begin(weights, each)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _unfolds(path: Path) -> bool:
    """Does a zip file become much larger when read? torch compresses its code alone."""
    with zipfile.ZipFile(path) as archive:
        read = sum(each.file_size for each in archive.infolist())
    return read > 2 * path.stat().st_size + _CODE_BYTES


def _is_plain(value: Tensor) -> bool:
    """Is a tensor made of real numbers that a file has, one for each element?"""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return False
    stored = value.untyped_storage().nbytes()
    return not value.is_complex() and value.numel() * value.element_size() <= stored


def _all_begin(weights: dict[str, Tensor], prefix: str) -> bool:
    return bool(weights) and all(name.startswith(prefix) for name in weights)


def _more_than_weights(said: str) -> str:
    """Of what torch said when it refused to build an object."""
    found = re.search(r"(?:GLOBAL|global|class|function)[: ]+`?([\w.]+\.[\w.]+)", said)
    if found is None:
        return "it cannot be read: it is damaged, or no file of weights"
    return f"it holds {found[1][:60]}, not weights alone; save the model's state_dict() instead"


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(f"checkpoint {path.name[-60:]}: {why}"[:LONGEST])
