"""The epoch after which a head is best on validation images, and the head as it was then.

Before the first it is no head: where training never helps, the plain prompt stays.
"""

import math
from dataclasses import dataclass

import numpy as np

from craft_shared.tensors import Tensors
from craft_tuner.adapter.head import Layer
from craft_tuner.blackbox import FloatArray, IntArray
from craft_tuner.heads.softmax import cross_entropy


@dataclass
class BestEpoch:
    """What is kept of a training."""

    epoch: int = 0
    loss: float = math.inf
    """In nats, of float32, as it is stored."""
    layers: tuple[Layer, ...] = ()

    def observe(
        self, logits: FloatArray, labels: IntArray, *, epoch: int, layers: tuple[Layer, ...] = ()
    ) -> None:
        """Keep a head whose logits (M, K) of the validation images have the lowest loss so far."""
        loss = float(np.float32(cross_entropy(logits.astype(np.float64), labels)))
        if loss < self.loss:
            self.epoch, self.loss, self.layers = epoch, loss, layers

    def state(self) -> Tensors:
        """Epoch, loss and layers by name."""
        parts = {
            f"best.{number}.{name}": getattr(layer, name)
            for number, layer in enumerate(self.layers)
            for name in ("weight", "bias")
        }
        return {"best": np.array([self.epoch, self.loss], np.float32), **parts}

    def load(self, state: Tensors) -> None:
        """Continue from `state`."""
        self.epoch, self.loss = int(state["best"][0]), float(state["best"][1])
        count = sum(name.startswith("best.") for name in state) // 2
        self.layers = tuple(
            Layer(state[f"best.{number}.weight"], state[f"best.{number}.bias"])
            for number in range(count)
        )
