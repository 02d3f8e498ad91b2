"""Prompts per second through RN50's text tower: packed, against the usual way, in one run.

    python benchmarks/text.py [--classes 10 47 1000] [--prompts 12] [--json FILE]

The usual way is what CoOp and CraFT run: per prompt, K x 77 tokens through open_clip's transformer
in float32. The bound is the token ratio, K * 77 over the packed tokens. Random weights: time does
not depend on them. Class names: digits, the 47 of DTD, the first K of ImageNet (from open_clip).
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch.nn import functional

from craft_server.clip.text import TextEncoder

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DTD = (  # noqa: SIM905 - forty-seven quotes read worse
    "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline "
    "dotted fibrous flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted "
    "lacelike lined marbled matted meshed paisley perforated pitted pleated polka-dotted porous "
    "potholed scaly smeared spiralled sprinkled stained stratified striped studded swirly veined "
    "waffled woven wrinkled zigzagged"
).split()
CONTEXT = "a photo of a"


def names_of(classes: int) -> list[str]:
    """K class names."""
    if classes <= len(DIGITS):
        return DIGITS[:classes]
    return DTD if classes == len(DTD) else list(IMAGENET_CLASSNAMES[:classes])


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `repeats` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def usual(model: Any, ids: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """One prompt as CoOp encodes it: (K, 77) ids, (n_ctx, W) offset -> (K, D)."""
    embedded = model.token_embedding(ids)
    embedded[:, 1 : 1 + len(offset)] += offset
    x = model.transformer(embedded + model.positional_embedding, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


@torch.inference_mode()
def measure(model: Any, classes: int, prompts: int) -> dict[str, float]:
    """One row of the table."""
    names, tokenizer = names_of(classes), open_clip.SimpleTokenizer()
    offsets = 0.1 * torch.randn(prompts, 4, 512, generator=torch.Generator().manual_seed(0))
    encoder = TextEncoder(model, tokenizer)
    plan = encoder.plan_soft(CONTEXT, names, ".", offsets)
    ids = tokenizer([f"{CONTEXT} {name}." for name in names])
    packed = seconds(lambda: encoder.encode(plan), 3) / prompts
    plain = seconds(lambda: usual(model, ids, offsets[0]), 1 if classes > 100 else 3)
    tokens = 5 + sum(len(row) - 5 for row in plan.rows)
    gap = (encoder.encode(plan)[0] - usual(model, ids, offsets[0])).abs().max().item()
    return {
        "classes": classes,
        "usual_prompts_per_s": 1 / plain,
        "packed_prompts_per_s": 1 / packed,
        "ratio": plain / packed,
        "bound": classes * 77 / tokens,
        "largest_difference": gap,
    }


def main() -> None:
    """Run and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 47, 1000])
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = open_clip.create_model("RN50").eval()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {version('torch')}, open_clip {version('open_clip_torch')}, float32\n"
    )
    print("| K | usual, prompts/s | packed, prompts/s | ratio | token bound | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for classes in options.classes:
        rows.append(measure(model, classes, min(options.prompts, max(1, 4000 // classes))))
        row = rows[-1]
        print(
            f"| {classes} | {row['usual_prompts_per_s']:.3f} | {row['packed_prompts_per_s']:.2f} | "
            f"{row['ratio']:.1f} | {row['bound']:.1f} | {row['largest_difference']:.0e} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
