"""Section: are the server's encoders exact against open_clip's own, on the same card?

Normalised features of both towers, random weights. In float32 the bound is on the difference to
open_clip in the same precision, with TF32 off. Half precision rounds either way: there the server's
error against the float32 reference may be at most 1.5 times open_clip's own error in that precision
(or 1e-4, where both are that small). A text is asked as a template and as a soft prompt that moves.
"""

from typing import NamedTuple

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.text_encoding import SUFFIX, offsets_of, texts_of, usual
from benchmarks.gpu.device import need_memory
from benchmarks.gpu.models import DTYPES, Loaded, gib_of, load, models_of
from benchmarks.gpu.runner import Row, Say, Scene, Section, SectionError
from craft_server.models.clip.load import compute_exactly

NAMES = ["cat", "grand piano", "three", "a very long name of some class"]
IMAGES, IMAGES_SMALL = 8, 2
FLOAT32_BOUND = 1e-5
HALF_FACTOR, HALF_FLOOR = 1.5, 1e-4

COLUMNS = {
    "model": "model",
    "dtype": "precision",
    "tower": "tower",
    "to_open_clip": "largest difference to open_clip, same precision|.1e",
    "error": "to float32|.1e",
    "open_clip_error": "open_clip's own to float32|.1e",
    "cosine": "smallest cosine to float32|.7f",
    "exact": "exact",
}


class Features(NamedTuple):
    """Normalised float32 features on the host: the server's, and open_clip's of the same."""

    ours: Tensor
    theirs: Tensor


@torch.inference_mode()
def templates(loaded: Loaded, device: torch.device) -> Features:
    """Of text templates."""
    plan = loaded.text.plan_templates([f"a photo of a {{}}{SUFFIX}"], NAMES)
    ids = open_clip.SimpleTokenizer()(texts_of(NAMES)).to(device)
    theirs = functional.normalize(loaded.model.encode_text(ids).float(), dim=-1)
    return Features(loaded.text.encode(plan)[0].cpu(), theirs.cpu())


@torch.inference_mode()
def soft(loaded: Loaded, device: torch.device) -> Features:
    """Of soft prompts, two that move."""
    torch.manual_seed(1)
    offsets = offsets_of(2, loaded.text.width)
    plan = loaded.text.plan_soft("a photo of a", NAMES, SUFFIX, offsets)
    ids = open_clip.SimpleTokenizer()(texts_of(NAMES)).to(device)
    each = [usual(loaded.model, ids, offset.to(device)).float() for offset in offsets]
    return Features(loaded.text.encode(plan).flatten(0, 1).cpu(), torch.cat(each).cpu())


@torch.inference_mode()
def images(loaded: Loaded, dtype: torch.dtype, device: torch.device, count: int) -> Features:
    """Of images of noise."""
    side = loaded.model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    pixels = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))
    records = loaded.images.encode(list(pixels))
    ours = torch.from_numpy(np.stack([np.frombuffer(record, "<f4") for record in records]))
    found = loaded.model.encode_image(pixels.to(device).to(dtype)).float()
    theirs = functional.normalize(found, dim=-1)
    return Features(ours, theirs.cpu())


def is_exact(dtype: str, to_open_clip: float, error: float, open_clip_error: float) -> bool:
    """The bound that the module states."""
    if dtype == "float32":
        return to_open_clip <= FLOAT32_BOUND
    return error <= max(HALF_FACTOR * open_clip_error, HALF_FLOOR)


def compare(dtype: str, found: Features, reference: Tensor) -> dict[str, object]:
    """A row's figures; the reference is open_clip's in float32."""
    gaps = [
        (a - b).abs().max().item()
        for a, b in ((found.ours, found.theirs), (found.ours, reference), (found.theirs, reference))
    ]
    cosine = (found.ours * reference).sum(dim=-1).min().item()
    names = ("to_open_clip", "error", "open_clip_error")
    exact = "yes" if is_exact(dtype, *gaps) else "NO"
    return {**dict(zip(names, gaps, strict=True)), "cosine": cosine, "exact": exact}


def check_model(name: str, scene: Scene, say: Say) -> None:
    """All precisions and towers of one model."""
    device, count = scene.torch_device, IMAGES_SMALL if scene.small else IMAGES
    need_memory(f"{name} in float32", gib_of(name, "float32"), device)
    references: dict[str, Tensor] = {}
    for dtype in DTYPES:
        loaded = load(name, dtype, device)
        found = {
            "text, templates": templates(loaded, device),
            "text, soft prompts": soft(loaded, device),
            "image": images(loaded, DTYPES[dtype], device, count),
        }
        del loaded
        for tower, features in found.items():
            reference = references.setdefault(tower, features.theirs)
            row = {"model": name, "dtype": dtype, "tower": tower}
            say({**row, **compare(dtype, features, reference)})


def run(scene: Scene, say: Say) -> None:
    """All models that fit; one that does not is named and left out.

    Raises:
        SectionError: a tower is not exact.
    """
    compute_exactly()
    torch.manual_seed(0)
    wrong: list[str] = []

    def judged(row: Row) -> None:
        say(row)
        if row.get("exact") == "NO":
            wrong.append(f"{row['model']} in {row['dtype']}, {row['tower']}")

    for name in models_of(scene):
        try:
            check_model(name, scene, judged)
        except (SectionError, torch.OutOfMemoryError) as error:
            said = str(error).splitlines()[0]
            say({"said": f"{name} is left out: {said}"})
    if wrong:
        raise SectionError(f"not exact: {'; '.join(wrong)}")


SECTION = Section("exactness", "Exactness", run, COLUMNS, least_s=20, most_s=150)
