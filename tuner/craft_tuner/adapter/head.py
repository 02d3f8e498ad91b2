"""From the logits of P prompts to one score for each class: what an adapter applies, in numpy.

Owns the arithmetic of heads that are done learning, and their tensors. Needs numpy alone.

    scores = residual * base + net(x - centre)

x is an image's row of P * K' logits, prompt after prompt; base, of K, is the mean over the prompts
of the logits of the classes themselves (K' may count other names as well); net is the layers, with
ReLU between them or without. CraFT is one prompt, K' = K, residual 1 (main_craft.py:230); a linear
classifier on a bank of logits is one layer, residual 0, and a `LeverageGate` mixes its scores with
zero-shot's for images unlike the shots.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from craft_shared.tensors import Tensors
from craft_tuner.blackbox import FloatArray
from craft_tuner.errors import UsageError

CENTRE = "head.centre"
GATE = tuple(f"head.reach{part}" for part in ("", "_centre", "_weights", "_scale", "_zero_shot"))
"""Names in a file of a gate's fields."""

_CHUNK_VALUES = 4 * 1024 * 1024
"""Float32 numbers that one chunk of rows may take per layer: 16 MiB."""


class Layer(NamedTuple):
    """One affine layer: weight float32 (out, in), bias float32 (out,)."""

    weight: FloatArray
    bias: FloatArray


class LeverageGate(NamedTuple):
    """How far from the shots a head is followed, by the leverage of an image.

    The leverage of an image, h = (|d|^2 - sum_j c_j (v_j^T d)^2) / e with d = x - centre over the
    first n columns, says how far outside the shots it lies (`craft_tuner.heads.leverage` derives v,
    c and e). Up to `near` the scores are the head's, from `far` on zero-shot's, in between mixed in
    proportion. Of several e the one that trusts the head least decides.
    """

    basis: FloatArray
    """v, float32 (r, n)."""
    centre: FloatArray
    """Float32 (n,)."""
    weights: FloatArray
    """c, float32 (number of e, r)."""
    scale: FloatArray
    """Float32 (number of e, 3): 1 / e, near, far."""
    factor: FloatArray
    """Float32 (1,), of the zero-shot logits."""

    def mix(self, x: FloatArray, scores: FloatArray) -> FloatArray:
        """Scores (N, K) by the leverage of rows x (N, P * K'), whose first K are zero-shot's."""
        _, near, far = self.scale.T
        each = (far - self.leverage(x)) / (far - near)
        share = np.clip(each, 0, 1).min(axis=1, keepdims=True)
        mixed: FloatArray = share * scores + (1 - share) * self.factor * x[:, : scores.shape[1]]
        return mixed

    def leverage(self, x: FloatArray) -> FloatArray:
        """Leverages h of rows x (N, n or more), one for each e: (N, number of e)."""
        d = x[:, : len(self.centre)] - self.centre
        along = (d @ self.basis.T) ** 2
        found: FloatArray = self.scale[:, 0] * (
            (d**2).sum(axis=1, keepdims=True) - along @ self.weights.T
        )
        return found


@dataclass(frozen=True)
class DeployedHead:
    """See the module; without layers and with residual 1 it is the identity on `base`."""

    layers: tuple[Layer, ...] = ()
    centre: FloatArray | None = None
    """Float32 (P * K',); None: 0."""
    relu: bool = True
    residual: float = 1.0
    gate: LeverageGate | None = None
    """None: the head is followed everywhere."""

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
        x = np.concatenate(list(logits), axis=-1)
        net = self._net(x)
        if self.gate is not None:
            net = self.gate.mix(x, net)
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
        if self.gate is not None:
            arrays |= dict(zip(GATE, self.gate, strict=True))
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
        gate = LeverageGate(*map(arrays.__getitem__, GATE)) if {*GATE} <= {*arrays} else None
        others = (centre is not None) + (0 if gate is None else len(gate))
        depth = (len(arrays) - others) // 2
        wanted = [f"head.{index}.{part}" for index in range(depth) for part in ("bias", "weight")]
        wanted += [] if centre is None else [CENTRE]
        wanted += [] if gate is None else [*GATE]
        if sorted(arrays) != sorted(wanted):
            raise UsageError(f"{source}: unexpected tensors {sorted(arrays)}; the file is damaged")
        layers = tuple(
            Layer(arrays[f"head.{index}.weight"], arrays[f"head.{index}.bias"])
            for index in range(depth)
        )
        head = cls(layers, centre, relu, residual, gate)
        wrong = head._wrong_shapes(widths)
        if wrong:
            raise UsageError(f"{source}: {wrong}; the file is damaged")
        return head

    def _wrong_shapes(self, widths: tuple[int, int]) -> str | None:
        """Which arrays do not fit each other or (P * K', K), in words; None: all fit."""
        inputs = [widths[0], *(len(layer.bias) for layer in self.layers)]
        shapes = [layer.weight.shape for layer in self.layers]
        fits = shapes == list(zip(inputs[1:], inputs[:-1], strict=True))
        if self.layers and not (fits and inputs[-1] == widths[1]):
            return f"a head of {shapes} for {widths[0]} logits and {widths[1]} classes"
        if self.centre is not None and self.centre.shape != (widths[0],):
            return f"{CENTRE} has shape {list(self.centre.shape)} for {widths[0]} logits"
        if self.gate is not None and not _fits(self.gate, widths):
            return (
                f"{GATE[0]} of shapes {[part.shape for part in self.gate]} for {widths[0]} "
                f"logits and {widths[1]} classes"
            )
        return None


def _fits(gate: LeverageGate, widths: tuple[int, int]) -> bool:
    columns = gate.centre.size
    rules, directions = gate.weights.shape if gate.weights.ndim == 2 else (0, 0)
    wanted = ((directions, columns), (columns,), (rules, directions), (rules, 3), (1,))
    shapes = tuple(part.shape for part in gate)
    return shapes == wanted and rules > 0 and max(columns, widths[1]) <= widths[0]
