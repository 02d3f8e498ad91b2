"""Section: images encoded per second, with decoding on threads beside the device, and what limits.

JPEGs of 500 x 375 pixels with shapes and noise, as large as photographs of that size. As in
features.py one batch is decoded while the device encodes the one before. `limited by` is the
slowest of decoding, copying and the tower, each alone.
"""

import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu.device import interleaved
from benchmarks.gpu.models import DTYPES, Loaded, load, models_of
from benchmarks.gpu.runner import Row, Say, Scene, Section, SectionError
from craft_server.models.clip.device import stay_small
from craft_server.models.clip.load import compute_exactly
from craft_server.models.clip.vision import stack

PICTURES, PICTURES_SMALL = 1024, 16
BATCH, BATCH_SMALL = 64, 4
COLUMNS = {
    "model": "model",
    "dtype": "precision",
    "together_per_s": "images/s, decoding beside|.0f",
    "decode_per_s": "decoding alone|.0f",
    "copy_per_s": "copying alone|.0f",
    "tower_per_s": "tower alone|.0f",
    "limit": "limited by",
    "threads": "decoding threads",
}


def jpegs(count: int) -> list[bytes]:
    """Pictures of shapes and noise; a few are drawn, and repeated."""
    draw = np.random.default_rng(0)
    return [_jpeg(draw) for _ in range(min(count, 32))] * -(-count // 32)


def _jpeg(draw: np.random.Generator) -> bytes:
    coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((500, 375)), np.int16)
    noise = draw.normal(0, 12, picture.shape).astype(np.int16)
    buffer = io.BytesIO()
    pixels = np.clip(picture + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def decoder(loaded: Loaded) -> Callable[[bytes], Tensor]:
    """From a file's bytes to what the tower takes, on a thread that computes alone."""

    def decode(data: bytes) -> Tensor:
        stay_small()
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return loaded.images.preprocess(picture)

    return decode


def together(loaded: Loaded, files: list[bytes], batch: int, pool: ThreadPoolExecutor) -> float:
    """Seconds for all files, the next batch decoded while the device works."""
    decode = decoder(loaded)
    batches = [files[start : start + batch] for start in range(0, len(files), batch)]
    began = time.perf_counter()
    ahead = [pool.submit(decode, file) for file in batches[0]]
    for number in range(len(batches)):
        pixels = [future.result() for future in ahead]
        following = batches[number + 1] if number + 1 < len(batches) else []
        ahead = [pool.submit(decode, file) for file in following]
        loaded.images.encode(pixels)
    return time.perf_counter() - began


def measure(loaded: Loaded, dtype: str, files: list[bytes], scene: Scene) -> Row:
    """One row's figures."""
    batch, device = BATCH_SMALL if scene.small else BATCH, scene.torch_device
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        pixels = list(pool.map(decoder(loaded), files))[:batch]
        decode_s = time.perf_counter() - began
        on_device = stack(pixels, device).to(DTYPES[dtype])
        works: list[Callable[[], Any]] = [
            lambda: stack(pixels, device),
            lambda: loaded.model.encode_image(on_device),
        ]
        copy_s, tower_s = interleaved(works, device, 1 if scene.small else 5)
        loaded.images.encode(pixels)
        both_s = together(loaded, files, batch, pool)
    rates = {"decode": len(files) / decode_s, "copy": batch / copy_s, "tower": batch / tower_s}
    return {
        "together_per_s": len(files) / both_s,
        **{f"{name}_per_s": rate for name, rate in rates.items()},
        "limit": min(rates, key=lambda name: rates[name]),
        "threads": threads,
    }


@torch.inference_mode()
def run(scene: Scene, say: Say) -> None:
    """All models in float32 and float16; one that does not fit is named and left out."""
    compute_exactly()
    files = jpegs(PICTURES_SMALL if scene.small else PICTURES)
    files = files[: PICTURES_SMALL if scene.small else PICTURES]
    for name in models_of(scene):
        for dtype in ("float32",) if scene.small else ("float32", "float16"):
            try:
                loaded = load(name, dtype, scene.torch_device)
                row = measure(loaded, dtype, files, scene)
            except (SectionError, torch.OutOfMemoryError) as error:
                say({"said": f"{name} in {dtype} is left out: {str(error).splitlines()[0]}"})
            else:
                say({"model": name, "dtype": dtype, **row})


SECTION = Section("images", "Images per second", run, COLUMNS, least_s=20, most_s=80)
