"""A device as sections see it: is it here, what time it takes, what memory is left.

Works on `cpu` too, so that everything but the card can be rehearsed.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu.runner import SectionError

GIB = 2**30


def absence(device: torch.device) -> str | None:
    """Why a device cannot be used, in one sentence; None if it can."""
    if device.type != "cuda":
        return None
    if torch.version.cuda is None:
        return f"no CUDA here: torch {torch.__version__} was built without it"
    if not torch.cuda.is_available():
        return f"no CUDA here: torch {torch.__version__} finds no driver or no card"
    if (device.index or 0) >= (cards := torch.cuda.device_count()):
        return f"no {device} here: the driver shows {cards} card(s)"
    return None


def free_gib(device: torch.device) -> float:
    """Memory of the card that nobody holds; without end elsewhere."""
    if device.type != "cuda":
        return float("inf")
    return float(torch.cuda.mem_get_info(device)[0]) / GIB


def used_mb(device: torch.device) -> float | None:
    """Memory of the card that somebody holds, in MB; None elsewhere."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return float(total - free) / 1e6


def need_memory(what: str, gib: float, device: torch.device) -> None:
    """Refuse what cannot fit.

    Raises:
        SectionError: the card has too little memory.
    """
    free = free_gib(device)
    if gib > free:
        raise SectionError(f"{what} needs {gib:.1f} GiB on {device}, {free:.1f} GiB are free")


def peak_mb(device: torch.device) -> float | None:
    """Most memory that torch held on the card since `forget_peak`, in MB."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let the peak begin anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call: between two CUDA events on a card, by the clock elsewhere."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (_event() for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def interleaved(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int
) -> list[float]:
    """Median time of each work, taken in turns after one call that is not counted."""
    for work in works:
        work()
    times = [[seconds(work, device) for work in works] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*times, strict=True)]
