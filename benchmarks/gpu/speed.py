"""Section: prompts per second through RN50's text tower, packed against the usual way.

As text.py does it on a CPU: the usual way is one prompt of K x 77 tokens at a time, the packed way
is the server's encoder on P soft prompts. Both in turns, medians, CUDA events. `share` is the
packed way's arithmetic over the rate of bare products of the tower's shapes, in the same turns.
"""

import open_clip
import torch
from torch import Tensor

from benchmarks.common.class_names import names_by_count
from benchmarks.common.text_encoding import (
    block_products,
    packed_flop,
    packed_tokens,
    plan_of,
    texts_of,
    usual,
)
from benchmarks.gpu.device import forget_peak, interleaved, peak_mb
from benchmarks.gpu.models import DTYPES, Loaded, load, models_of
from benchmarks.gpu.runner import Row, Say, Scene, Section
from craft_server.models.clip.load import compute_exactly

CLASSES, CLASSES_SMALL = (100, 47, 397, 1000), (10,)
PROMPTS, PROMPTS_SMALL = 40, 2
REPEATS, REPEATS_SMALL = 5, 1
PEAK_TOKENS = 65_536, 1024
"""Rows of the bare products: as many as a pass of the server takes, and for the rehearsal."""

COLUMNS = {
    "classes": "K",
    "dtype": "precision",
    "prompts": "P",
    "tokens": "packed tokens per prompt",
    "usual_per_s": "usual, prompts/s|.2f",
    "packed_per_s": "packed, prompts/s|.2f",
    "ratio": "ratio|.1f",
    "to_usual_float32": "to the usual way in float32|.1f",
    "tflop_per_s": "packed, TFLOP/s|.3g",
    "product_tflop_per_s": "bare products, TFLOP/s|.3g",
    "share": "share|.2f",
    "peak_mb": "peak of the card, MB|.0f",
    "difference": "largest difference|.1e",
}


class Question:
    """K names, P prompts, both ways to answer."""

    def __init__(self, loaded: Loaded, classes: int, prompts: int, device: torch.device) -> None:
        _, names = names_by_count(classes)
        self._loaded = loaded
        self.plan = plan_of(loaded.text, names, prompts)
        self._ids = open_clip.SimpleTokenizer()(texts_of(names)).to(device)
        offsets = self.plan.offsets
        if offsets is None:
            raise TypeError("a plan of soft prompts has offsets")
        self._offset = offsets[0].to(device)

    def usual(self) -> Tensor:
        """One prompt (K, D)."""
        return usual(self._loaded.model, self._ids, self._offset)

    def packed(self) -> Tensor:
        """All prompts (P, K, D)."""
        return self._loaded.text.encode(self.plan)

    def difference(self) -> float:
        """Of the first prompt's features."""
        return (self.packed()[0] - self.usual().float()).abs().max().item()


def measure(loaded: Loaded, classes: int, dtype: str, scene: Scene) -> Row:
    """One row."""
    prompts = PROMPTS_SMALL if scene.small else PROMPTS
    device = scene.torch_device
    question = Question(loaded, classes, prompts, device)
    products, flop = block_products(
        loaded.text.width, tokens=PEAK_TOKENS[scene.small], dtype=DTYPES[dtype], device=device
    )
    works = [question.usual, question.packed, products]
    plain, packed, bare = interleaved(works, device, REPEATS_SMALL if scene.small else REPEATS)
    del products
    forget_peak(device)
    difference = question.difference()
    rate = packed_flop(loaded.model, question.plan) / packed
    return {
        "classes": classes,
        "dtype": dtype,
        "prompts": prompts,
        "tokens": packed_tokens(question.plan),
        "usual_per_s": 1 / plain,
        "packed_per_s": prompts / packed,
        "ratio": plain * prompts / packed,
        "tflop_per_s": rate / 1e12,
        "product_tflop_per_s": flop / bare / 1e12,
        "share": rate / (flop / bare),
        "peak_mb": peak_mb(device),
        "difference": difference,
    }


@torch.inference_mode()
def run(scene: Scene, say: Say) -> None:
    """All K in all precisions; one that finds no memory is named and left out."""
    compute_exactly()
    plain: dict[int, float] = {}
    for dtype in ("float32", "float16") if scene.small else DTYPES:
        loaded = load(models_of(scene)[0], dtype, scene.torch_device)
        for classes in CLASSES_SMALL if scene.small else CLASSES:
            try:
                row = measure(loaded, classes, dtype, scene)
            except torch.OutOfMemoryError as error:
                said = str(error).splitlines()[0]
                say({"said": f"K = {classes} in {dtype} is left out: {said}"})
                continue
            base = plain.setdefault(classes, row["usual_per_s"])
            say({**row, "to_usual_float32": row["packed_per_s"] / base})


SECTION = Section("speed", "Prompts per second", run, COLUMNS, least_s=20, most_s=110)
