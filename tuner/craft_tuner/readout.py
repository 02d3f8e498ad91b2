"""From the logits of P prompts to one score for each class: what an adapter applies, in numpy.

Owns the arithmetic of heads that are done learning and their tensors. Must not know torch, prompts,
files or how a head is trained.

    scores = residual * base + net(x - centre)

x is an image's row of P * K' logits, prompt after prompt; base, of K, is the mean over the prompts
of the logits of the classes themselves (K' may count other names as well); net is the layers, with
ReLU between them or without. CraFT is one prompt, K' = K, residual 1 (main_craft.py:230); a linear
classifier on a bank of logits is one layer, residual 0.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from craft_shared.tensors import Tensors
from craft_tuner.blackbox import FloatArray
from craft_tuner.errors import UsageError

CENTRE = "head.centre"

_CHUNK_VALUES = 4 * 1024 * 1024
"""Float32 numbers that one chunk of rows may take per layer: 16 MiB."""


class Layer(NamedTuple):
    """One affine layer: weight float32 (out, in), bias float32 (out,)."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Readout:
    """See the module; without layers and with residual 1 it is the identity on `base`."""

    layers: tuple[Layer, ...] = ()
    centre: FloatArray | None = None
    """Float32 (P * K',); None: 0."""
    relu: bool = True
    residual: float = 1.0

    def __call__(self, logits: FloatArray, base: FloatArray | None) -> FloatArray:
        """Scores float32 (N, K) of logits (P, N, K') and their base (N, K), None where none is.

        Rows are worked off in chunks, so that memory beside both ends does not grow with N.
        """
        if not self.layers and base is not None:
            return base if self.residual == 1 else np.float32(self.residual) * base
        prompts, images, names = logits.shape
        size = max(1, _CHUNK_VALUES // max(prompts * names, *(len(b) for _, b in self.layers), 1))
        classes = len(self.layers[-1].bias) if self.layers else prompts * names
        scores = np.empty((images, classes), np.float32)
        for start in range(0, images, size):
            rows = slice(start, start + size)
            scores[rows] = self._scores(logits[:, rows], None if base is None else base[rows])
        return scores

    def _scores(self, logits: FloatArray, base: FloatArray | None) -> FloatArray:
        net = self._net(np.concatenate(list(logits), axis=-1))
        if base is None or not self.residual:
            return net
        return base + net if self.residual == 1 else np.float32(self.residual) * base + net

    def _net(self, x: FloatArray) -> FloatArray:
        units: FloatArray = x if self.centre is None else x - self.centre
        for number, layer in enumerate(self.layers):
            if number and self.relu:
                units = np.maximum(units, np.float32(0))
            units = units @ layer.weight.T + layer.bias
        return units

    def tensors(self) -> Tensors:
        """Its arrays by name, as a file holds them."""
        arrays = {} if self.centre is None else {CENTRE: self.centre}
        for index, layer in enumerate(self.layers):
            arrays[f"head.{index}.weight"] = layer.weight
            arrays[f"head.{index}.bias"] = layer.bias
        return arrays

    @classmethod
    def of(
        cls, arrays: Tensors, *, relu: bool, residual: float, widths: tuple[int, int], source: str
    ) -> Self:
        """What `tensors` gave.

        Args:
            arrays: by name, nothing else among them.
            relu: whether ReLU stands between layers.
            residual: weight of the base.
            widths: (P * K', K), which the first layer takes and the last one gives.
            source: named in messages.

        Raises:
            UsageError: names or shapes do not make a head.
        """
        centre = arrays.get(CENTRE)
        depth = (len(arrays) - (centre is not None)) // 2
        wanted = [f"head.{index}.{part}" for index in range(depth) for part in ("bias", "weight")]
        wanted += [] if centre is None else [CENTRE]
        if sorted(arrays) != sorted(wanted):
            raise UsageError(f"{source}: unexpected tensors {sorted(arrays)}; the file is damaged")
        layers = tuple(
            Layer(arrays[f"head.{index}.weight"], arrays[f"head.{index}.bias"])
            for index in range(depth)
        )
        inputs = [widths[0], *(len(layer.bias) for layer in layers)]
        shapes = [layer.weight.shape for layer in layers]
        fits = shapes == list(zip(inputs[1:], inputs[:-1], strict=True))
        if layers and not (fits and inputs[-1] == widths[1]):
            raise UsageError(
                f"{source}: a head of {shapes} for {widths[0]} logits and {widths[1]} classes; the "
                "file is damaged"
            )
        if centre is not None and centre.shape != (widths[0],):
            raise UsageError(
                f"{source}: {CENTRE} has shape {list(centre.shape)} for {widths[0]} logits; the "
                "file is damaged"
            )
        return cls(layers, centre, relu, residual)
