"""Bases of the image features that logits show: principal directions, whitened more or less.

Owns the change from logits to the inputs of a linear classifier. Logits of many prompts are a
linear image of the image feature, so a classifier on them is one on features, up to a change of
basis. Each principal direction is divided by the `power`-th power of its spread:

    a = (x - mean) V diag(s)^-power    over the directions with s > floor * s_0

power 0 keeps the geometry, 1 whitens, 1/2 lies between. Which is right depends on the model's space
of texts and not on a rule, so it is chosen with the rest (`craft_tuner.heads.selection`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

FEATURE_BASES = ((0.0, 1e-4), (0.5, 1e-5), (1.0, 1e-4), (1.0, 1e-5), (1.0, 3e-6))
"""(power, floor); float32 logits carry directions down to about 3e-6 of the largest."""


class FeatureBasis(NamedTuple):
    """Inputs a = (x - mean) directions of rows x."""

    mean: Matrix
    """(d,)."""
    directions: Matrix
    """(d, inputs)."""

    def project(self, x: Matrix) -> Matrix:
        """Inputs (n, inputs) of rows x (n, d)."""
        projected: Matrix = (x - self.mean) @ self.directions
        return projected


def feature_bases(x: Matrix) -> dict[tuple[float, float], FeatureBasis]:
    """The `FEATURE_BASES` of rows x (n, d), by (power, floor).

    They come from the eigenvectors of the smaller Gram matrix.
    """
    # The mean as it will be stored, so that training and use subtract the same numbers.
    mean = x.mean(axis=0).astype(np.float32).astype(np.float64)
    centred = x - mean
    tall = len(x) >= x.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    spread = np.sqrt(np.maximum(values[::-1], 0))
    found = {}
    for power, floor in FEATURE_BASES:
        count = max(1, int((spread > floor * spread[0]).sum()))
        s = np.maximum(spread[:count], np.finfo(np.float64).tiny)
        right = vectors[:, ::-1][:, :count]
        right = right if tall else centred.T @ right / s
        scale = s**power * max(spread[0], s[0]) ** (1 - power)
        found[power, floor] = FeatureBasis(mean, right * np.sqrt(len(x)) / scale)
    return found


def centre_prompts(rows: Matrix, names: int) -> Matrix:
    """Rows (n, P * K') less the mean of each prompt's K' logits.

    What all names share varies much and tells no class from another; log-probabilities differ from
    logits by that alone. The map is its own transpose, so it centres weights too.
    """
    prompts = rows.reshape(len(rows), -1, names)
    centred: Matrix = prompts - prompts.mean(axis=2, keepdims=True)
    return centred.reshape(rows.shape)
