"""Loading a model: the embedded one, an open_clip name, or a local config and checkpoint.

Weights are read without executing anything from the file (safetensors, or torch's weights-only
reader). The digest on the card covers every tensor in float32, so the same weights have the same
digest from whatever file they come and in whatever precision they run.
"""

import hashlib
import importlib.resources
import json
import logging
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from torch import Tensor

from craft_server.models.clip.device import stay_small
from craft_server.models.clip.model import ClipBlackBox
from craft_server.models.clip.published import Recipe
from craft_server.models.clip.source import Source, find_source, load_tokenizer
from craft_server.models.clip.text import TextEncoder, can_be_cut
from craft_server.models.clip.vision import RECORD_FORMAT, ImageEncoder
from craft_server.models.clip.weights import LONGEST, load_weights, read_weights
from craft_server.settings import EMBEDDED, ModelError, Settings
from craft_shared.messages import CardLimits, ModelCard

_LOG = logging.getLogger(__name__)
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def load_clip(settings: Settings, limits: CardLimits) -> ClipBlackBox:
    """Load the model that the settings name, onto its device.

    Raises:
        ModelError: unknown name or tag, missing or unreadable file, no network, no such device.
    """
    device = pick_device(settings.device)
    compute_exactly()
    threads = settings.threads or torch.get_num_threads()
    stay_small()
    source = find_source(settings)
    if source.assumed:
        _LOG.warning(source.assumed)
    tokenizer = load_tokenizer(source.name)
    model = create_model(source, "float32", torch.device("cpu"))
    digest = digest_of(model)
    if settings.precision != "float32":  # open_clip builds other norm layers for half precision
        model = create_model(source, settings.precision, device, weights=model.state_dict())
    model = _placed(model, device, source)
    tower = getattr(model, "text", model)
    cut = can_be_cut(tower)
    text = TextEncoder(tower, tokenizer, full=None if cut else model.encode_text)
    kinds = [kind for kind in settings.prompt_kinds if cut or kind == "text"]
    if not kinds:
        raise ModelError(f"{source.id}: this text tower takes text prompts only; allow them")
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
    card = ModelCard(
        id=source.id,
        digest=digest,
        context_width=text.width,
        context_length=text.context_length,
        image_size=side_of(model),
        logit_scale=float(model.logit_scale.exp()),
        prompt_kinds=kinds,
        dtype=settings.precision,
        text_path=text.path,
        limits=limits,
    )
    bias = 0.0 if model.logit_bias is None else float(model.logit_bias)
    images = ImageEncoder(
        model,
        image_transform_v2(preprocess, is_train=False),
        dtype=getattr(torch, settings.precision),
        batch=settings.encode_batch,
        key=_image_key(card, preprocess),
    )
    return ClipBlackBox(card, text, images, bias=bias, threads=threads)


def pick_device(name: str) -> torch.device:
    """The device of a setting; `auto` takes cuda, else mps, else cpu.

    Raises:
        ModelError: no such device here.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ["cuda"] if cards else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    found += ["cpu"]
    wanted = found[0] if name == "auto" else name
    several = [f"cuda:{number}" for number in range(cards)]
    if wanted not in [*found, *several]:
        known = ", ".join([*found, *several])
        raise ModelError(f"device {name!r} is not here; available: auto, {known}")
    return torch.device(wanted)


def compute_exactly() -> None:
    """Keep float32 float32: torch lets convolutions on a GPU round their factors to TF32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _placed(model: Any, device: torch.device, source: Source) -> Any:
    """The model on its device.

    Raises:
        ModelError: the device has too little memory.
    """
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise _too_large(source, device, error) from error


def _too_large(source: Source, device: torch.device, error: Exception) -> ModelError:
    return ModelError(
        f"{source.id} does not fit into the memory of {device}: free some of it, or take "
        f"--precision float16 or another --device ({str(error).splitlines()[0]})"
    )


def create_model(
    source: Source,
    precision: str,
    device: torch.device,
    *,
    weights: dict[str, Tensor] | None = None,
) -> Any:
    """The open_clip model itself with its weights, in eval mode and without gradients.

    Args:
        source: of the model.
        precision: of its towers.
        device: on which it is made; `meta` makes it without numbers.
        weights: in the names of the model, read before; None reads those of the source.

    Raises:
        ModelError: the checkpoint is missing or does not fit.
    """
    file = file_of(source)
    if source.name == EMBEDDED:
        weights = weights or _embedded_weights()
    elif file is not None:
        weights = weights or read_weights(file)
    recipe = source.recipe or Recipe(quick_gelu=False, preprocess=())
    logging.disable(logging.CRITICAL)  # open_clip logs tracebacks of what we explain below
    made_on = device if device.type == "meta" else nullcontext()
    try:
        with made_on:
            model = open_clip.create_model(
                source.name,
                pretrained=None if weights else source.pretrained,
                precision=_PRECISIONS[precision],
                device=device,
                force_quick_gelu=recipe.quick_gelu,
                force_preprocess_cfg=dict(recipe.preprocess),
                pretrained_text=False,
            )
        if weights:
            load_weights(model, weights)
    except torch.OutOfMemoryError as error:
        raise _too_large(source, device, error) from error
    except Exception as error:
        raise ModelError(_explain(source, error)) from error
    finally:
        logging.disable(logging.NOTSET)
    return model.eval().requires_grad_(requires_grad=False)


def file_of(source: Source) -> Path | None:
    """The checkpoint if it is a file that weights.py reads; NumPy's are left to open_clip."""
    file = Path(source.pretrained or "")
    tagged = open_clip.get_pretrained_cfg(source.name, str(source.pretrained))
    known = source.pretrained and not tagged and file.suffix not in {".npz", ".npy"}
    return file if known and file.is_file() else None


def _explain(source: Source, error: Exception) -> str:
    file, why = source.pretrained or "", " ".join(str(error).split())
    if not file:
        return f"{source.id} cannot be made: {why}"[:LONGEST]
    if Path(file).is_dir():
        return f"checkpoint {file} is a folder: name the file in it"
    if Path(file).exists():
        return f"checkpoint {Path(file).name[-60:]} does not fit {source.name}: {why}"[:LONGEST]
    tags = open_clip.list_pretrained_tags_by_model(source.name)
    if file in tags:
        return (
            f"{source.id}: the checkpoint could not be downloaded ({why[:LONGEST]}). "
            "Without internet, fetch it elsewhere and say what it is: "
            f"--pretrained /path/to/checkpoint --pretrained-like {file}"
        )
    return (
        f"{file!r} is neither a file nor a checkpoint tag of {source.name}; tags: "
        f"{', '.join(tags) or 'none'}"
    )


def _embedded_weights() -> dict[str, Tensor]:
    """The shipped weights; the token table is stored as the rows that training ever used."""
    folder = importlib.resources.files("craft_server") / "embedded"
    stored = load_file(str(folder / "weights.safetensors"))
    rows, ids = stored.pop("token_embedding.rows"), stored.pop("token_embedding.ids")
    config = json.loads((folder / "embedded.json").read_text())
    table = torch.zeros(config["text_cfg"]["vocab_size"], rows.shape[1])
    table[ids.long()] = rows.float()
    return {"token_embedding.weight": table, **{k: v.float() for k, v in stored.items()}}


def digest_of(model: Any) -> str:
    """SHA-256 over every tensor of a float32 model and the one choice no tensor shows."""
    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    digest = hashlib.sha256(b"quick_gelu" if quick else b"gelu")
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _image_key(card: ModelCard, preprocess: PreprocessCfg) -> str:
    """SHA-256 over all that turns an image's bytes into a record."""
    parts = {
        "format": RECORD_FORMAT,
        "checkpoint": card.digest,
        "precision": card.dtype,
        "preprocess": asdict(preprocess),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def side_of(model: Any) -> int:
    """The side of the images that a model of open_clip takes, in pixels."""
    size: int | tuple[int, int] = model.visual.image_size
    return size if isinstance(size, int) else size[0]
