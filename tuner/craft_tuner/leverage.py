"""How far from its shots a head can be trusted, told by the shots alone.

Owns the leverage of an image: the quantity that says where a linear fit extrapolates. Must not know
labels, prompts or how heads are chosen. Cross-validation sees images like the shots and no others:
it cannot tell what a head does to images from another source, and on directions along which the
shots barely vary a whitened head does anything. There zero-shot, trained on far more, is the better
guess.

    h(x) = d^T (D^T D + e I)^-1 d = |d|^2 / e - sum_j (v_j^T d)^2 w_j / (e (w_j + e))

d = x - mean of the shots, D the shots' rows of d, w_j and v_j the eigenvalues and vectors of D^T D,
e = RIDGE w_0. It is the leverage of ridge regression with an intercept (Hoaglin and Welsch, The
American Statistician, 1978) less its 1/N; what is beyond the shots' own is hidden extrapolation
(Cook, Technometrics, 1977). A shot that is left out of the fit has

    (h + 1/N) / (1 - h - 1/N) - 1/(N - 1)

exactly, so nothing is held out to learn what is usual.
"""

import numpy as np
from numpy.typing import NDArray

from craft_tuner.readout import Reach

RIDGE = 1e-5
"""Share of the largest variance that every direction is granted; above float32's noise."""

LEAST = 3
"""Images below which nothing is known of what is usual."""


def reach_of(x: NDArray[np.float64], *, factor: float) -> Reach | None:
    """How far from rows x (N, n), one per image, a head is followed; None where they do not say.

    `near` is the median of the leverages of left-out shots and `far` the largest. `factor`
    multiplies the zero-shot logits.
    """
    centre = x.mean(axis=0).astype(np.float32)
    d = x - centre
    tall = len(x) > x.shape[1]
    values, vectors = np.linalg.eigh(d.T @ d if tall else d @ d.T)
    values = np.maximum(values, 0)
    e = RIDGE * values[-1]
    if len(x) < LEAST or e == 0:
        return None
    along = d @ vectors if tall else vectors * np.sqrt(values)
    leverage = 1 / len(x) + along**2 @ (1 / (values + e))
    left_out = leverage / np.maximum(1 - leverage, np.finfo(np.float64).eps)
    left_out -= 1 / (len(x) - 1)
    scale = np.array([1 / e, np.median(left_out), left_out.max(), factor], np.float32)
    if scale[2] <= scale[1]:
        return None
    kept = values > e / 10
    w = values[kept, None]
    right = vectors.T[kept] if tall else vectors.T[kept] @ d / np.sqrt(w)
    basis = np.sqrt(w / (e * (w + e))) * right
    return Reach(basis.astype(np.float32), centre, scale)
