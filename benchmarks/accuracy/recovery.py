"""The attack: image embeddings recovered from what a key was told, by who has the text encoder.

Owns the attacker's arithmetic. Knows no model, no server and no truth: it sees text features, which
everybody with the checkpoint can compute, and replies as `craft_server.logits.disclosure` gives
them.

An embedding v is guessed as the mode of its posterior. The prior is normal around zero with the
covariance of the attacker's own texts: image and text towers were trained to meet in one space, so
images vary where texts do. Or, for a worse case, it is that of embeddings of other pictures.

Shapes: P prompts, K names, N images, D width of the joint space, R directions that texts have.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from craft_shared.messages import Output

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FLOAT32_NOISE = 1e-5
"""Deviation of a logit of float32 from the exact one: a few last places of numbers around ten."""
REST_NOISE = 1e-6
"""Deviation of 1 minus the sum of probabilities of float32."""

_DIRECTIONS_FROM = 1e-12
"""Of the largest variance of texts: what is less is rounding, in directions that no text has."""
_FLOOR = 0.01
"""Part of the prior's variance that is spread over all directions evenly."""
_SHARPNESS = 30.0
"""How surely the nearest name is the label, per typical difference of names. It is quite sure; what
is sharper takes the search longer and finds no more."""
_STEPS = 150
_SOFTENED = (1.0, 0.1, 0.01, 0.0, 0.0)
"""Deviations added to what is curved, step by step, so that each step's straight line holds."""


@dataclass(frozen=True)
class Prior:
    """What the attacker knows of where embeddings lie: v = z `axes`, z normal of variance 1."""

    axes: Doubles
    """(R, D)."""

    @classmethod
    def of_texts(cls, texts: Floats) -> Self:
        """From text features (T, D) of any names; the more and the more various, the better."""
        centred = texts.astype(float) - texts.mean(axis=0, dtype=float)
        variances, directions = _spectrum(centred)
        kept = variances > _DIRECTIONS_FROM * variances[-1]
        return cls._of(variances[kept], directions[:, kept])

    @classmethod
    def of_images(cls, embeddings: Floats) -> Self:
        """From embeddings (M, D) of other pictures, mean included: for who got hold of some."""
        return cls._of(*_spectrum(embeddings.astype(float)))

    @classmethod
    def _of(cls, variances: Doubles, directions: Doubles) -> Self:
        spread = np.maximum(variances, 0) / variances.sum() + _FLOOR / len(variances)
        return cls(np.sqrt(spread)[:, None] * directions.T)


def recover(texts: Floats, told: Floats, scale: float, output: Output, prior: Prior) -> Doubles:
    """Embeddings (N, D), of any length, from what was told.

    Args:
        texts: features (P, K, D) of the texts asked about.
        told: (P, N, K) as the output tells.
        scale: the model card's `logit_scale`.
        output: what the key is told.
        prior: of the attacker's own texts.
    """
    rows = texts @ prior.axes.T  # (P, K, R)
    if output.kind == "label":
        return _from_labels(rows, told) @ prior.axes
    if output.kind == "top_k":
        found = [_from_top(scale * rows, each) for each in told.transpose(1, 0, 2)]
        return np.stack(found) @ prior.axes
    values = told.astype(float).transpose(0, 2, 1)  # (P, K, N)
    if output.kind == "log_probabilities":  # true up to a constant of each row
        rows = rows - rows.mean(axis=1, keepdims=True)
        values = values - values.mean(axis=1, keepdims=True)
    noise = output.step / np.sqrt(12) if output.step is not None else FLOAT32_NOISE
    width = rows.shape[2]
    flat = values.reshape(-1, values.shape[2])
    return _solve(scale / noise * rows.reshape(-1, width), flat / noise).T @ prior.axes


def cosine(found: Doubles, true: Floats) -> float:
    """Between recovered and true embeddings (N, D), mean over images."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(true, axis=1)
    return float(((found * true).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def _spectrum(rows: Doubles) -> tuple[Doubles, Doubles]:
    variances, directions = np.linalg.eigh(rows.T @ rows)
    return variances, directions


def _solve(rows: Doubles, values: Doubles) -> Doubles:
    """Minimum (R,) or (R, N) of |rows z - values|^2 + |z|^2, for rows however ill-conditioned."""
    rows, values = _shortened(rows, values)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    shrunk = (sizes / (sizes**2 + 1)).reshape(-1, *[1] * (values.ndim - 1))
    found: Doubles = right.T @ (shrunk * (left.T @ values))
    return found


def _shortened(rows: Doubles, values: Doubles) -> tuple[Doubles, Doubles]:
    """At most R equations that have the same solutions as these."""
    if len(rows) <= rows.shape[1]:
        return rows, values
    basis, short = np.linalg.qr(rows)
    return short, basis.T @ values


def _from_top(rows: Doubles, told: Floats) -> Doubles:
    """One image's z (R,) from rows (P, K, R) times the scale and what was told (P, K).

    Differences of the classes told are linear in z. What probability they leave is the sum of the
    hidden ones' exponentials: of one hidden class that is linear too, so that nothing is hidden.
    """
    prompts = np.arange(len(told))[:, None]
    order = np.argsort(-told, axis=1, kind="stable")
    count = int(np.isfinite(told[0]).sum())
    ordered, values = rows[prompts, order], told[prompts, order].astype(float)
    shown, hidden = ordered[:, :count], ordered[:, count:]
    lines = (shown[:, 1:] - shown[:, :1]).reshape(-1, rows.shape[2]) / FLOAT32_NOISE
    heights = (values[:, 1:count] - values[:, :1]).reshape(-1) / FLOAT32_NOISE
    lines, heights = _shortened(lines, heights)
    found = _solve(lines, heights)
    rest = 1 - np.exp(values[:, :count]).sum(axis=1)
    left = rest > REST_NOISE
    if not hidden.shape[1] or not left.any():
        return found
    hidden, first, rest = hidden[left], shown[left, 0], rest[left]
    wanted = np.log(rest) - values[left, 0]
    for softened in _SOFTENED if hidden.shape[1] > 1 else _SOFTENED[-1:]:
        slopes, sums = _rest_around(found, hidden)
        slopes -= first
        aims = wanted - sums + first @ found + slopes @ found
        noise = FLOAT32_NOISE + REST_NOISE / rest + softened
        curved, targets = slopes / noise[:, None], aims / noise
        found = _solve(np.concatenate([lines, curved]), np.concatenate([heights, targets]))
    return found


def _rest_around(found: Doubles, hidden: Doubles) -> tuple[Doubles, Doubles]:
    """Slopes (P, R) and values (P,) at z = `found` of log sum exp(`hidden` (P, H, R) z)."""
    logits = hidden @ found
    top = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(axis=1, keepdims=True)
    return np.einsum("ph,phr->pr", weights / total, hidden), (np.log(total) + top)[:, 0]


def _from_labels(rows: Doubles, told: Floats) -> Doubles:
    """For all images z (N, R): the label is the likeliest name of a steep softmax."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    typical = np.sqrt((centred**2).sum(axis=2).mean())
    names, width = rows.shape[1:]
    steep = torch.tensor(_SHARPNESS / typical * centred.reshape(-1, width), dtype=torch.float32)
    labels = torch.tensor(told.argmax(axis=2).T.reshape(-1))
    found = torch.zeros(told.shape[1], width, requires_grad=True)
    search = torch.optim.LBFGS([found], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        scores = (found @ steep.T).reshape(-1, names)
        unlikely = nn.functional.cross_entropy(scores, labels, reduction="sum")
        value = unlikely + found.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return found.detach().numpy().astype(float)
