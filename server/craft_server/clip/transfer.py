"""Tensors between host and device; on the way to and from a GPU through pinned memory."""

from typing import Any, cast

import torch
from torch import Tensor

from craft_server.blackbox import Awaited, FloatArray


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
    copied.record()

    def wait() -> FloatArray:
        copied.synchronize()
        return cast("FloatArray", host.numpy())

    return wait
