"""The prediction refinement module of CraFT: a residual head on logits, its losses and steps.

Owns the head's weights and optimiser. Takes and gives numpy arrays.

Source: CraFT (arXiv 2402.04050), prediction refinement module and prediction-consistent loss;
official code mrflogs/CraFT @1a4c251, main_craft.py, whose lines are cited. The paper's "3-layer
MLP" is three layers of units, so two weight matrices as coded (decision 0009).
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from craft_shared.tensors import Tensors
from craft_tuner.adapter.adapter import Layer
from craft_tuner.blackbox import FloatArray, IntArray
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.seeds import Stream, stream

P = ParamSpec("P")
R = TypeVar("R")

_CHUNK_VALUES = 4 * 1024 * 1024
"""Float32 numbers that one chunk of rows may take per activation: 16 MiB."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def _one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run on one thread of torch: why, see `craft_tuner.threads`."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return wrapper


class _Layer(NamedTuple):
    """Parameters of one affine layer: weight (out, in), bias (out,)."""

    weight: nn.Parameter
    bias: nn.Parameter


@dataclass(frozen=True)
class Epoch:
    """What one pass over the images did, means weighted by images."""

    loss: float
    """Cross-entropy plus weighted KL, before each step."""
    cross_entropy: float
    kl: float
    """KL(softmax(L) || softmax(L + net(L))), in nats, whether or not it was weighted in."""
    gradient_norms: tuple[float, ...]
    """Euclidean norm of each layer's gradient (weight and bias), mean over the steps."""


class Head:
    """`L + net(L)` with net = Linear(K, hidden)-ReLU-...-Linear(hidden, K) (185-189).

    Head 0 is the one that is deployed; others (`index` > 0) draw from streams of their own.
    """

    def __init__(self, classes: int, config: FitConfig, *, index: int = 0) -> None:
        self._config = config
        self._index = index
        widths = [classes, *(config.head_depth - 1) * [config.head_hidden], classes]
        self._layers = [
            self._new_layer(number, inputs, outputs)
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        ]
        self._optimiser = self._new_optimiser()

    @_one_thread
    def fitness(self, logits: FloatArray, labels: IntArray) -> NDArray[np.float64]:
        """What CMA-ES minimises: CE(L, y) + w KL(softmax(L + net(L)) || softmax(L)) (152-154).

        Cross-entropy is of the unrefined logits. Rows are worked off in chunks, so memory does
        not grow with P or N.

        Args:
            logits: (P, N, K), float32 or float16.
            labels: (N,), classes.

        Returns:
            (P,) float64, nats.
        """
        prompts, images, classes = logits.shape
        rows = logits.reshape(-1, classes)
        values = np.empty(len(rows))
        targets = np.tile(labels, prompts)
        for part in _chunks(len(rows), width=max(classes, self._config.head_hidden)):
            raw = torch.tensor(rows[part], dtype=torch.float32)
            with torch.no_grad():
                values[part] = self._fitness(raw, torch.tensor(targets[part])).numpy()
        fitness: NDArray[np.float64] = values.reshape(prompts, images).mean(axis=1)
        return fitness

    @_one_thread
    def epoch(
        self, logits: FloatArray, labels: IntArray, *, generation: int, kl_weight: float
    ) -> Epoch:
        """One pass over the images in mini-batches of a new random order (210-223).

        loss = CE(L + net(L), y) + kl_weight KL(softmax(L) || softmax(L + net(L))) (217-220)

        The order follows from (seed, head, generation) alone, so there is no generator to save.

        Args:
            logits: float32 (N, K) of the images, bought with one query.
            labels: (N,), classes.
            generation: number of this pass.
            kl_weight: w, or 0 once the schedule has dropped the term (220).
        """
        raw, targets = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
        draw = stream(self._config.seed, Stream.HEAD_ORDER, self._index, generation)
        order = torch.from_numpy(draw.permutation(len(labels)))
        sums, norms, steps = np.zeros(3), np.zeros(len(self._layers)), 0
        for batch in torch.split(order, self._config.batch_size):
            sums += len(batch) * np.array(self._step(raw[batch], targets[batch], kl_weight))
            norms += self._gradient_norms()
            steps += 1
        loss, cross_entropy, kl = sums / len(labels)
        return Epoch(float(loss), float(cross_entropy), float(kl), tuple((norms / steps).tolist()))

    @_one_thread
    def refine(self, logits: FloatArray) -> FloatArray:
        """Refined logits L + net(L), float32 (N, K)."""
        with torch.no_grad():
            raw = torch.tensor(logits, dtype=torch.float32)
            refined: FloatArray = (raw + self._net(raw)).numpy()
        return refined

    def layers(self) -> tuple[Layer, ...]:
        """Copies of the matrices, for an adapter."""
        return tuple(
            Layer(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in self._layers
        )

    def state(self) -> Tensors:
        """Weights and the optimiser's moments by name, float32: all that the next epoch needs."""
        found = {name: parameter.detach() for name, parameter in self._named()}
        for name, parameter in self._named():
            for moment, value in self._optimiser.state[parameter].items():
                found[f"{name}.{moment}"] = value
        prefix = f"head{self._index}"
        return {f"{prefix}.{name}": value.numpy().copy() for name, value in found.items()}

    def load(self, state: Tensors) -> None:
        """Continue from `state`; the next epochs are bit-equal to those of the head it is from."""
        prefix = f"head{self._index}"
        for name, parameter in self._named():
            with torch.no_grad():
                parameter.copy_(torch.tensor(state[f"{prefix}.{name}"]))
            self._optimiser.state[parameter] = {
                moment: torch.tensor(state[f"{prefix}.{name}.{moment}"]) for moment in _MOMENTS
            }

    def _new_layer(self, number: int, inputs: int, outputs: int) -> _Layer:
        """As `nn.Linear` starts: weight and bias uniform within 1/sqrt(inputs)."""
        draw = stream(self._config.seed, Stream.HEAD_WEIGHTS, self._index, number)
        edge = 1 / math.sqrt(inputs)
        shapes = [(outputs, inputs), (outputs,)]
        weight, bias = (
            nn.Parameter(torch.tensor(draw.uniform(-edge, edge, shape), dtype=torch.float32))
            for shape in shapes
        )
        return _Layer(weight, bias)

    def _new_optimiser(self) -> torch.optim.Optimizer:
        """Adam (191); the paper writes AdamW."""
        parameters = [parameter for _, parameter in self._named()]
        if self._config.optimiser == "adam":
            return torch.optim.Adam(parameters, lr=self._config.lr)
        return torch.optim.AdamW(
            parameters, lr=self._config.lr, weight_decay=self._config.weight_decay
        )

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for number, layer in enumerate(self._layers):
            yield f"{number}.weight", layer.weight
            yield f"{number}.bias", layer.bias

    def _net(self, raw: Tensor) -> Tensor:
        units = raw
        for layer in self._layers[:-1]:
            units = functional.relu(functional.linear(units, *layer))
        return functional.linear(units, *self._layers[-1])

    def _fitness(self, raw: Tensor, targets: Tensor) -> Tensor:
        loss = functional.cross_entropy(raw, targets, reduction="none")  # 153
        if self._config.kl_weight:
            loss += self._config.kl_weight * _kl(raw, raw + self._net(raw))  # 152, 154
        return loss

    def _step(self, raw: Tensor, targets: Tensor, kl_weight: float) -> tuple[float, float, float]:
        refined = raw + self._net(raw)  # 217
        cross_entropy = functional.cross_entropy(refined, targets)  # 218
        kl = _kl(refined, raw).mean()  # 219
        loss = cross_entropy + kl_weight * kl  # 220
        self._optimiser.zero_grad()  # 221
        loss.backward()  # type: ignore[no-untyped-call]  # 222
        self._optimiser.step()  # 223
        return loss.item(), cross_entropy.item(), kl.item()

    def _gradient_norms(self) -> NDArray[np.float64]:
        gradients = [[p.grad for p in layer if p.grad is not None] for layer in self._layers]
        return np.array([math.hypot(*(float(g.norm()) for g in layer)) for layer in gradients])


@_one_thread
def symmetric_kl(raw: FloatArray, refined: FloatArray) -> float:
    """KL(p || q) + KL(q || p) of raw and refined predictions, mean over images, in nats."""
    found = []
    for part in _chunks(len(raw), width=raw.shape[1]):
        p, q = (torch.tensor(rows[part], dtype=torch.float32) for rows in (raw, refined))
        found.append(_kl(p, q) + _kl(q, p))
    return float(torch.cat(found).mean())


def _kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(logits)) of each row (236-240, before `batchmean`)."""
    target = functional.softmax(target_logits, dim=1)  # 237
    log_input = functional.log_softmax(logits, dim=1)  # 238
    return functional.kl_div(log_input, target, reduction="none").sum(dim=1)  # 239


def _chunks(rows: int, *, width: int) -> Iterator[slice]:
    size = max(1, _CHUNK_VALUES // width)
    for start in range(0, rows, size):
        yield slice(start, start + size)
