"""How far from its shots a head can be trusted, by the leverage of the shots alone.

Owns the leverage of an image: the quantity that says where a linear fit extrapolates.
Cross-validation sees images like the shots and no others. It cannot say what a head does to images
from another source, and on directions along which the shots barely vary a whitened head does
anything. There zero-shot, trained on far more, is the better guess.

    h(x) = d^T (D^T D + e I)^-1 d = (|d|^2 - sum_j (v_j^T d)^2 w_j / (w_j + e)) / e

d = x - mean of the shots, D the shots' rows of d, w_j and v_j the eigenvalues and vectors of D^T D,
e = ridge w_0. It is the leverage of ridge regression with an intercept (Hoaglin and Welsch, The
American Statistician, 1978) less its 1/N; what is beyond the shots' own is hidden extrapolation
(Cook, Technometrics, 1977). A shot that is left out of the fit has

    (h + 1/N) / (1 - h - 1/N) - 1/(N - 1)

exactly, so nothing is held out to learn what is usual. It is computed with two ridges: with a small
one the many directions along which shots barely vary decide, with a large one the few along which
they do.
"""

import numpy as np
from numpy.typing import NDArray

from craft_tuner.adapter.head import LeverageGate

RIDGES = (1e-5, 1e-2)
"""Shares of the largest variance that every direction is granted; the first is above float32's
noise."""

LEAST = 3
"""Images below which nothing is known of what is usual."""


def fit_gate(x: NDArray[np.float64], *, factor: float) -> LeverageGate | None:
    """How far from rows x (N, n), one per image, a head is followed; None where they do not say.

    For each ridge `near` is the median of the leverages of left-out shots and `far` the largest.
    `factor` multiplies the zero-shot logits.
    """
    centre = x.mean(axis=0).astype(np.float32)
    d = x - centre
    tall = len(x) > x.shape[1]
    values, vectors = np.linalg.eigh(d.T @ d if tall else d @ d.T)
    values = np.maximum(values, 0)
    if len(x) < LEAST or values[-1] == 0:
        return None
    along = d @ vectors if tall else vectors * np.sqrt(values)
    kept = values > RIDGES[0] * values[-1] / 10
    w = values[kept]
    scales: list[tuple[float, float, float]] = []
    weights: list[NDArray[np.float64]] = []
    for e in np.multiply(RIDGES, values[-1]):
        left_out = _left_out(along**2 @ (1 / (values + e)))
        near, far = np.median(left_out), left_out.max()
        if np.float32(far) > np.float32(near):
            scales.append((float(1 / e), float(near), float(far)))
            weights.append(w / (w + e))
    if not scales:
        return None
    right = vectors.T[kept] if tall else vectors.T[kept] @ d / np.sqrt(w)[:, None]
    parts = (right, centre, weights, scales, [factor])
    return LeverageGate(*(np.asarray(part, np.float32) for part in parts))


def _left_out(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leverages (N,) of shots that are left out of the fit, from those h of shots in it."""
    leverage = 1 / len(h) + h
    left_out: NDArray[np.float64] = leverage / np.maximum(1 - leverage, np.finfo(np.float64).eps)
    return left_out - 1 / (len(h) - 1)
