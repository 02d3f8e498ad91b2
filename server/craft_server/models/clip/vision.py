"""From images to records and features: open_clip's own preprocessing and image tower.

A record is one image's normalised features, float32 little-endian: what a disk can keep and any
process with the same checkpoint can load.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from craft_server.models.clip.device import to_device

RECORD_FORMAT = 2
"""Raised when the bytes of a record change their meaning."""

_MULTIPLE = 4


class ImageEncoder:
    """Encodes images with one open_clip image tower, a bounded batch at a time.

    A record's bits do not depend on which images share its batch. They can depend on how many do,
    and on the number of threads: matrix libraries take other kernels for few rows. A pass is
    therefore filled up to a multiple of four images, which is cheap. On the CPU measured, with two
    threads, the embedded tower, RN50 and ViT-B/32 then gave the same bits at every batch size
    tried. With one thread the embedded tower (by 1e-7) and RN50 still differ in small batches.
    What is stable everywhere is the record that was stored first.

    Args:
        model: open_clip's model; only `encode_image` is used.
        preprocess: PIL image -> float32 (3, side, side); thread-safe.
        dtype: of the tower's arithmetic; single weights may have another.
        batch: images per pass of the tower.
        key: see `craft_server.engine.blackbox.BlackBox.image_key`.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image], Tensor],
        *,
        dtype: torch.dtype,
        batch: int,
        key: str,
    ) -> None:
        self.key = key
        self.preprocess = preprocess
        self._model = model
        self._dtype = dtype
        self._batch = batch

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Tensor]) -> list[bytes]:
        """One record per image of float32 (3, side, side).

        Raises:
            RuntimeError: a feature is not finite.
        """
        starts = range(0, len(pixels), self._batch)
        chunks = [self._pass(pixels[start : start + self._batch]) for start in starts]
        return [row.tobytes() for chunk in chunks for row in chunk]

    @torch.inference_mode()
    def load(self, records: Sequence[bytes]) -> Tensor:
        """Records as one float32 matrix (N, D) on the model's device."""
        values = np.frombuffer(bytearray().join(records), "<f4").astype(np.float32, copy=False)
        return torch.from_numpy(values).reshape(len(records), -1).to(self._device)

    @property
    def _device(self) -> torch.device:
        weight: Tensor = next(self._model.visual.parameters())
        return weight.device

    def _pass(self, pixels: Sequence[Tensor]) -> Any:
        """Normalised features of one pass of the tower, little-endian float32 (N, D)."""
        filled = [*pixels, *[pixels[-1]] * (-len(pixels) % _MULTIPLE)]
        features = self._model.encode_image(stack(filled, self._device).to(self._dtype)).float()
        rows = nn.functional.normalize(features, dim=-1)[: len(pixels)].cpu().numpy()
        if not np.isfinite(rows).all():
            raise RuntimeError("the image tower gave a feature that is not finite")
        return rows.astype("<f4", copy=False)


def stack(pixels: Sequence[Tensor], device: torch.device) -> Tensor:
    """Images (3, H, W) as one batch (N, 3, H, W) on a device."""
    return to_device(torch.stack(list(pixels)), device)
