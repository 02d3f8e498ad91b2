"""How many CPU threads torch takes on which thread of the server.

Only the device thread computes in parallel. libgomp lets its workers spin between two parallel
regions (runtime.py says for how long) only while no more threads are managed than there are
CPUs; a second team, which any thread that touches a large tensor would start, makes the device's
workers sleep and wake instead, some two hundred times a pass: measured 20 ms instead of 14 for 40
prompts of the embedded model.
"""

import threading
from typing import Any, cast

import torch
from torch import Tensor

from craft_server.engine.blackbox import Awaited, FloatArray

_here = threading.local()


def compute_here(threads: int) -> None:
    """This thread is the device's: it computes on so many CPU threads."""
    _here.known = True
    torch.set_num_threads(threads)


def stay_small() -> None:
    """This thread computes alone, unless it is the device's."""
    if not getattr(_here, "known", False):
        compute_here(1)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Bring a CPU tensor to a device; to a GPU through pinned memory, without waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Awaited:
    """Start bringing a tensor to the host; call the result to wait for it and get it as numpy."""
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensor.device))  # not of the thread's device

    def wait() -> FloatArray:
        copied.synchronize()
        return cast("FloatArray", host.numpy())

    return wait
