"""The fixed random matrix A of the prompt generation module: contexts are p0 + A z.

Source: CraFT (arXiv 2402.04050); official code mrflogs/CraFT @1a4c251, whose lines are cited. The
server adds p0: this module makes offsets A z.
"""

import math

import numpy as np

from craft_tuner.blackbox import FloatArray
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.search.base import Vector
from craft_tuner.seeds import Stream, stream
from craft_tuner.threads import one_blas_thread


def projection(config: FitConfig, width: int) -> FloatArray:
    """The fixed random matrix A, float32 (n_ctx * width, d).

    Entries are normal(0, std) (main_craft.py:85-86) or uniform within 1/sqrt(d), the default of
    `nn.Linear` that the ImageNet script keeps (main_craft_imagenet.py:88).
    """
    shape = (config.n_ctx * width, config.intrinsic_dim)
    draw = stream(config.seed, Stream.PROJECTION)
    if config.projection == "normal":
        return draw.normal(0, config.std, shape).astype(np.float32)
    edge = 1 / math.sqrt(config.intrinsic_dim)
    return draw.uniform(-edge, edge, shape).astype(np.float32)


def project(a: FloatArray, z: Vector, *, n_ctx: int) -> FloatArray:
    """Offsets A z (main_craft.py:132), float32 (..., n_ctx, width), of z (..., d)."""
    with one_blas_thread():
        offsets: FloatArray = z.astype(np.float32) @ a.T
    return offsets.reshape(*z.shape[:-1], n_ctx, -1)


def kept_variance(a: FloatArray) -> float:
    """Share of the context's dimensions that a random step through A spreads its variance over.

    A step with covariance I in z has covariance A A^T in the D = n_ctx * width numbers of the
    context. Its variance is spread over (tr A A^T)^2 / tr (A A^T)^2 effective dimensions (the
    participation ratio of the eigenvalues); this is that number divided by D. It is 1 where every
    direction of the context is explored alike, and about d / (d + D) for a normal A: 0.2 for
    d = 512 and 4 tokens of width 512. It is a property of A alone: one number per run.
    """
    with one_blas_thread():
        gram = a.T.astype(np.float64) @ a.astype(np.float64)
    return float(np.trace(gram) ** 2 / (len(a) * np.sum(gram**2)))
