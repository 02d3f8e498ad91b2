"""ZIP: zeroth-order descent over a low-rank context with shared features, steps clipped.

Source: "ZIP: An Efficient Zeroth-order Prompt Tuning for Black-box Vision-Language Models", ICLR
2025, arXiv 2504.06838; official code LOG-postech/ZIP @2ba908b, whose lines are cited (of
trainers/zip.py unless a file is named). Departures are in decision 0018.

What a step costs. There, a query is one prompt on one mini-batch of 128 images; 5,000 of them are
500 steps of 5 pairs and 0.64 M logit vectors. Here a query is one prompt on the image set of all
shots, so a step of `zip_pairs` pairs is 2 `zip_pairs` queries in one call, and as many logit
vectors as that times the number of shots: compare by logit vectors as well as by queries.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import hadamard

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, FloatArray, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import fit_generations
from craft_tuner.methods.prompt_only import PromptSearch, views_read
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.search.base import Vector
from craft_tuner.search.spsa import Descent, Gains, Rule, segments
from craft_tuner.seeds import Stream, stream
from craft_tuner.threads import one_blas_thread


class ZipSettings(MethodSettings):
    """Sizes of the factors, steps and perturbations."""

    listed_after: ClassVar[str | None] = "spsa_gamma"

    zip_intrinsic_dim: int = Field(
        500, ge=1, le=65_536, description="zip: dimensions shared out among the context's tokens"
    )
    zip_rank: int = Field(5, ge=1, le=64, description="zip: rank of the context's low-rank part")
    zip_pairs: int = Field(5, ge=1, le=2048, description="zip: pairs of prompts an iteration")
    zip_a: float = Field(0.01, gt=0, le=1e3, description="zip: a, steps are a / (k + o)^alpha")
    zip_stability: float = Field(1.0, ge=0, le=1e6, description="zip: o of these steps")
    zip_alpha: float = Field(0.4, ge=0, le=1, description="zip: alpha of these steps")
    zip_c: float = Field(0.01, gt=0, le=1e3, description="zip: c, perturbations are c / k^gamma")
    zip_gamma: float = Field(0.1, ge=0, le=1, description="zip: gamma of these perturbations")


class Zip(Method):
    """Low-rank context, pairs of queries, clipped steps."""

    name = "zip"
    summary = "prompt only: a low-rank context by clipped zeroth-order descent (ICLR 2025)"
    prompt_kind: ClassVar[PromptKind | None] = "soft"
    settings = ZipSettings
    levers = ("zip_pairs",)

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """Two queries for each pair of an iteration."""
        pairs = 2 * config.of(ZipSettings).zip_pairs
        return plan_generations(
            config, work, budgets, head_queries=0, population=pairs, lever="--zip-pairs"
        )

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`."""
        config, width = recorder.config, box.card.context_width
        shape = Shape.of(config, width=width)
        training = PromptSearch(
            box,
            task,
            config,
            search=descent(config, shape, iterations=recorder.plan.generations),
            offsets_of=partial(offsets, shape, transforms(config, shape, width=width)),
            constants={},
        )
        return fit_generations(training, recorder, on_progress)


@dataclass(frozen=True)
class Shape:
    """Sizes of the context's factors: w is U (m, r), s (r,), V (q, r) and u (q,) in a row."""

    tokens: int
    """m, tokens of the context."""
    features: int
    """q, numbers that a token's transform reads."""
    rank: int
    """r."""

    @classmethod
    def of(cls, config: FitConfig, *, width: int) -> Self:
        """The intrinsic dimensions shared out among the tokens (155), at most `width` for each."""
        own = config.of(ZipSettings)
        features = min(max(1, own.zip_intrinsic_dim // config.n_ctx), width)
        return cls(config.n_ctx, features, own.zip_rank)

    @property
    def size(self) -> int:
        """Numbers that are searched, delta in the paper: 417 for 8 tokens, 500 and rank 5."""
        return self.rank * (self.tokens + 1 + self.features) + self.features

    def factors(self, w: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """U (..., m, r), s (..., r), V (..., q, r) and u (..., q) of w (..., size), in that order.

        The order is that of the official parameters (153-161).
        """
        m, q, r = self.tokens, self.features, self.rank
        ends = np.cumsum([m * r, r, q * r])
        u_, s, v, shared = np.split(w, ends, axis=-1)
        lead = w.shape[:-1]
        return u_.reshape(*lead, m, r), s, v.reshape(*lead, q, r), shared

    def matrix(self, w: Vector) -> Vector:
        """U diag(s) V^T + 1 u^T (165), float64 (..., m, q): low rank, and what tokens share."""
        left, scale, right, shared = self.factors(w)
        with one_blas_thread():
            product = (left * scale[..., None, :]) @ np.swapaxes(right, -1, -2)
        low_rank: Vector = product + shared[..., None, :]
        return low_rank


def start(shape: Shape, *, seed: int) -> Vector:
    """U = 0, s = 1, V ~ N(0, 1), u = 0 (153-156): the context begins where its words are."""
    draw = stream(seed, Stream.ZIP_START)
    zeros, ones = np.zeros(shape.tokens * shape.rank), np.ones(shape.rank)
    right = draw.normal(size=shape.features * shape.rank)
    return np.concatenate([zeros, ones, right, np.zeros(shape.features)])


def descent(config: FitConfig, shape: Shape, *, iterations: int) -> Descent:
    """Clipped SPSA (272-296): estimates no longer than sqrt(delta) (286-289)."""
    own = config.of(ZipSettings)
    gains = Gains(  # 272-273; configs/trainers/ZIP/vit_b16.yaml: o, c, a, alpha, gamma
        a=own.zip_a,
        stability=own.zip_stability,
        alpha=own.zip_alpha,
        c=own.zip_c,
        gamma=own.zip_gamma,
    )
    rule = Rule(gains, own.zip_pairs, segments, clip=math.sqrt(shape.size))
    return Descent(start(shape, seed=config.seed), rule, seed=config.seed, iterations=iterations)


def offsets(shape: Shape, transforms: FloatArray, w: Vector) -> FloatArray:
    """Each token's row through its own transform (170-176), float32 (P, m, width), of w (P, size).

    The server adds the words' embeddings, as line 175 does.
    """
    rows = shape.matrix(w).astype(np.float32)
    with one_blas_thread():
        moved = transforms @ rows.transpose(1, 2, 0)  # (m, width, q) @ (m, q, P)
    return np.ascontiguousarray(moved.transpose(2, 0, 1))


def transforms(config: FitConfig, shape: Shape, *, width: int) -> FloatArray:
    """One Fastfood matrix a token (140-142), float32 (m, width, q)."""
    matrices = []
    for token in range(shape.tokens):
        draw = stream(config.seed, Stream.FASTFOOD, token)
        padded = 2 ** math.ceil(math.log2(width))
        food = Fastfood(
            signs=2 * draw.randint(0, 2, padded) - 1,
            order=draw.permutation(padded),
            scales=draw.normal(size=padded),
        )
        matrices.append(food.matrix(width, shape.features))
    return np.stack(matrices).astype(np.float32)


@dataclass(frozen=True)
class Fastfood:
    """Q. Le et al., "Fastfood", ICML 2013, as in the official projections/intrinsic.py:50-117.

    x -> (H G Pi H B x)[:width] / (sqrt(L sum G^2) sqrt(width / L)), which keeps lengths in the
    mean; H is the Walsh-Hadamard matrix of order L, a power of two.
    """

    signs: NDArray[np.int64]
    """B, (L,) of -1 and 1."""
    order: NDArray[np.int64]
    """Pi, (L,)."""
    scales: Vector
    """G, (L,), standard normal."""

    def matrix(self, width: int, features: int) -> Vector:
        """The map of `features` numbers, padded with zeros, to `width`; float64 (width, q)."""
        padded = len(self.scales)
        h = hadamard(padded).astype(np.float64)
        right = h[self.order][:, :features] * self.signs[:features]  # Pi H B
        with one_blas_thread():
            product: Vector = (h[:width] * self.scales) @ right
        divisor = math.sqrt(padded * np.sum(self.scales**2)) * math.sqrt(width / padded)
        scaled: Vector = product / divisor
        return scaled
