"""Prompts per second through RN50's text tower: packed, against the usual way, in one run.

    python -m benchmarks text [--classes 10 47 100 397 1000] [--prompts 12] [--json FILE]
    python -m benchmarks text --growth [--json FILE]

The usual way is what CoOp and CraFT run: per prompt, K x 77 tokens through open_clip's transformer
in float32. The token bound is K * 77 over the packed tokens; the last layer, where only read-outs
are computed, lets the ratio pass it. `of peak` is the packed way's arithmetic over the rate of bare
matrix products of the tower's shapes, measured in the same run. Random weights: time does not
depend on them. Class names: digits, DTD, Caltech101, SUN397, ImageNet.

`--growth` measures time against prompts, classes and images instead, and fits it: `exponent` is the
slope of log(seconds) over log(size), 1 for a linear cost.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import open_clip
import torch

from benchmarks.common.class_names import names_by_count, names_of
from benchmarks.common.machine import (
    Row,
    describe,
    median_seconds,
    options_of,
    print_heading,
    print_table,
    slope,
    write_json,
)
from benchmarks.common.text_encoding import (
    CONTEXT,
    LENGTH,
    SUFFIX,
    block_products,
    offsets_of,
    packed_flop,
    packed_tokens,
    plan_of,
    texts_of,
    usual,
)
from craft_server.models.clip.text import TextEncoder

SLOW_CLASSES = 100
"""Above this, the usual way is called once: it takes many seconds."""

GROWTH = [4, 8, 16, 32], [25, 50, 100, 200, 397], [250, 1000, 4000, 16000]
"""Sizes of P, K and N that `--growth` goes through."""

COLUMNS = {
    "classes": "K",
    "dataset": "names",
    "usual_prompts_per_s": "usual, prompts/s|.3f",
    "packed_prompts_per_s": "packed, prompts/s|.2f",
    "ratio": "ratio|.1f",
    "bound": "token bound|.1f",
    "share_of_bound": "ratio / bound|.2f",
    "gflop_per_s": "packed, GFLOP/s|.0f",
    "peak_gflop_per_s": "bare products, GFLOP/s|.0f",
    "share_of_peak": "of peak|.2f",
    "largest_difference": "largest difference|.0e",
}
GROWTH_COLUMNS = {
    "over": "growing",
    "fixed": "fixed",
    "smallest": "from",
    "largest": "to",
    "seconds": "seconds at the end|.3f",
    "exponent": "exponent|.2f",
    "per_unit_us": "us per unit|.4f",
    "unit": "unit",
    "largest_residual": "largest residual|.1%",
}


def usual_seconds(
    model: Any, ids: torch.Tensor, offset: torch.Tensor, repeats: int
) -> tuple[float, torch.Tensor]:
    """Median time of the usual way for one prompt, and its features (K, D)."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        features = usual(model, ids, offset)
        times.append(time.perf_counter() - began)
    return statistics.median(times), features


# --- the table ----------------------------------------------------------------------------------


@torch.inference_mode()
def measure(model: Any, encoder: TextEncoder, classes: int, prompts: int) -> Row:
    """One row of the table."""
    dataset, names = names_by_count(classes)
    offsets = offsets_of(prompts)
    ids = open_clip.SimpleTokenizer()(texts_of(names))
    plan = encoder.plan_soft(CONTEXT, names, SUFFIX, offsets)
    products, flop = block_products()
    peak = flop / median_seconds(products, 5)
    packed = median_seconds(partial(encoder.encode, plan), 3)
    features = encoder.encode(plan)[0]
    repeats = 1 if classes > SLOW_CLASSES else 3
    plain, expected = usual_seconds(model, ids, offsets[0], repeats)
    gap = (features - expected).abs().max().item()
    ratio, bound = plain * prompts / packed, classes * LENGTH / packed_tokens(plan)
    rate = packed_flop(model, plan) / packed
    return {
        "classes": classes,
        "dataset": dataset,
        "prompts": prompts,
        "usual_prompts_per_s": 1 / plain,
        "packed_prompts_per_s": prompts / packed,
        "ratio": ratio,
        "bound": bound,
        "share_of_bound": ratio / bound,
        "gflop_per_s": rate / 1e9,
        "peak_gflop_per_s": peak / 1e9,
        "share_of_peak": rate / peak,
        "largest_difference": gap,
    }


def compare(options: argparse.Namespace, model: Any, encoder: TextEncoder) -> list[Row]:
    """The table of both ways at each K."""
    return [
        measure(model, encoder, classes, min(options.prompts, max(1, 4000 // classes)))
        for classes in options.classes
    ]


# --- growth -------------------------------------------------------------------------------------


def fitted(sizes: Sequence[float], seconds: Sequence[float]) -> Row:
    """Exponent of a power law, and the line through the points with its largest residual."""
    logs = [[math.log(value) for value in values] for values in (sizes, seconds)]
    per_unit = slope(sizes, seconds)
    fixed = statistics.fmean(seconds) - per_unit * statistics.fmean(sizes)
    expected = [fixed + per_unit * size for size in sizes]
    gaps = [abs(got - line) / line for got, line in zip(seconds, expected, strict=True)]
    return {
        "seconds": seconds[-1],
        "exponent": slope(*logs),
        "per_unit_us": 1e6 * per_unit,
        "largest_residual": max(gaps),
        "points": list(zip(sizes, seconds, strict=True)),
    }


@torch.inference_mode()
def text_growth(encoder: TextEncoder, cases: Sequence[tuple[int, int]]) -> Row:
    """Time to encode (P, K) cases against prompts x packed tokens, SUN397's names."""
    names, sizes, seconds = names_of("sun397"), [], []
    for prompts, classes in cases:
        plan = plan_of(encoder, names[:classes], prompts)
        sizes.append(float(prompts * packed_tokens(plan)))
        seconds.append(median_seconds(partial(encoder.encode, plan), 3))
    return {"unit": "prompt x token"} | fitted(sizes, seconds)


@torch.inference_mode()
def image_growth(images: Sequence[int], prompts: int, classes: int) -> Row:
    """Time of the logits' product alone against N: (N, D) images with (P, D, K) texts."""
    texts, seconds = torch.randn(prompts, 1024, classes), []
    for count in images:
        features = torch.randn(count, 1024)
        seconds.append(median_seconds(partial(torch.matmul, features, texts), 3))
    return {"unit": "image"} | fitted([float(count) for count in images], seconds)


def grow(
    encoder: TextEncoder, prompts: Sequence[int], classes: Sequence[int], images: Sequence[int]
) -> list[Row]:
    """One row per size that grows while the others stay."""
    by_prompts = text_growth(encoder, [(count, 47) for count in prompts])
    by_classes = text_growth(encoder, [(4, count) for count in classes])
    by_images = image_growth(images, 8, 47)
    return [
        {"over": "P", "fixed": "K = 47", "smallest": prompts[0], "largest": prompts[-1]}
        | by_prompts,
        {"over": "K", "fixed": "P = 4", "smallest": classes[0], "largest": classes[-1]}
        | by_classes,
        {"over": "N", "fixed": "P = 8, K = 47", "smallest": images[0], "largest": images[-1]}
        | by_images,
    ]


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, classes=[10, 47, 100, 397, 1000], prompts=12, growth=False)
    about = describe() | {"torch_threads": torch.get_num_threads(), "dtype": "float32"}
    torch.manual_seed(0)
    model = open_clip.create_model("RN50").eval()
    encoder = TextEncoder(model, open_clip.SimpleTokenizer())
    if options.growth:
        print_heading("Growth of the cost of texts and logits", about)
        rows, columns = grow(encoder, *GROWTH), GROWTH_COLUMNS
    else:
        print_heading("Texts: packed against the usual way", about)
        rows, columns = compare(options, model, encoder), COLUMNS
    print_table(rows, columns)
    write_json(options.json, about, rows=rows)


if __name__ == "__main__":
    main()
