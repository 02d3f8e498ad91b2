"""Section: the card, its driver, how torch is set, and the rate of bare matrix products."""

import platform
import subprocess
from functools import partial

import torch

from benchmarks.gpu.device import GIB, absence, interleaved
from benchmarks.gpu.models import DTYPES
from benchmarks.gpu.runner import Row, Say, Scene, Section, SectionError

COLUMNS = {"what": "what", "value": "value"}
SIDES = 8192, 256
"""Of the matrices: measured, rehearsed."""


def run(scene: Scene, say: Say) -> None:
    """Say what there is; a row `no_device` if it cannot be used.

    Raises:
        SectionError: the device is not here.
    """
    for what, value in machine().items():
        say({"what": what, "value": value})
    if why := absence(scene.torch_device):
        say({"no_device": why, "said": why})
        raise SectionError(why)
    for what, value in (card(scene.torch_device) | settings()).items():
        say({"what": what, "value": value})
    for row in rates(scene):
        say(row)


def machine() -> dict[str, str]:
    """Interpreter, torch, driver."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA that torch was built for": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not run here ({type(error).__name__})"
    return done.stdout.strip() or "nvidia-smi shows no card"


def card(device: torch.device) -> dict[str, str]:
    """The card itself."""
    if device.type != "cuda":
        return {"card": "none, this is the rehearsal"}
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "card": about.name,
        "compute capability": f"{about.major}.{about.minor}",
        "multiprocessors": str(about.multi_processor_count),
        "memory": f"{total / GIB:.1f} GiB, {free / GIB:.1f} free",
    }


def settings() -> dict[str, str]:
    """What decides how float32 and half precision are computed, as torch starts with it."""
    return {
        "TF32 in matrix products": str(torch.backends.cuda.matmul.allow_tf32),
        "TF32 in convolutions, torch's default (the server switches it off)": str(
            torch.backends.cudnn.allow_tf32
        ),
        "reduced sums in float16": str(
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
        ),
    }


def rates(scene: Scene) -> list[Row]:
    """TFLOP/s of square products in each precision."""
    side, device = SIDES[scene.small], scene.torch_device
    rows: list[Row] = []
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        (taken,) = interleaved([partial(torch.mm, a, b)], device, 5)
        rate = 2 * side**3 / taken / 1e12
        what = f"products of {side} x {side} in {name}"
        rows.append({"what": what, "value": f"{rate:.3g} TFLOP/s", "tflop_per_s": rate})
    return rows


SECTION = Section("card", "Driver and card", run, COLUMNS, least_s=5, most_s=60, needs_device=False)
