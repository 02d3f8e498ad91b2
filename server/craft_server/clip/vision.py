"""From images to image features: open_clip's own preprocessing and image tower."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn


class ImageEncoder:
    """Encodes RGB images with one open_clip image tower, a bounded batch at a time.

    Args:
        model: open_clip's model; only `encode_image` is used.
        preprocess: PIL image -> float32 (3, side, side).
        batch: images per pass of the tower.
    """

    def __init__(self, model: Any, preprocess: Callable[[Image], Tensor], *, batch: int) -> None:
        self._model = model
        self._preprocess = preprocess
        self._batch = batch

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> Tensor:
        """Normalised image features, float32 (N, D), on the model's device."""
        weight = next(self._model.visual.parameters())
        chunks = []
        for start in range(0, len(images), self._batch):
            pixels = [self._preprocess(image) for image in images[start : start + self._batch]]
            batch = torch.stack(pixels).to(weight.device, weight.dtype)
            chunks.append(self._model.encode_image(batch).float())
        return nn.functional.normalize(torch.cat(chunks), dim=-1)
