"""Logits as 16-bit integers with a scale and an offset per row: half the bytes of float32.

A row is the K logits of one image under one prompt:

    logit = offset + scale * value        both in float32: the product first, then the sum

`value` runs from -32767 to 32767, so that a row's range is 65,534 steps of `scale`. -32768 stands
for -inf: of that class nothing is disclosed. A row in which all that is disclosed is one number has
scale 0 and is exact, and so is -inf. Any other logit is off by at most half a step, and what
float32 rounds: less than 2^-22 of the row's largest magnitude.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STEPS = 65_534
"""Steps between the least and the greatest logit of a row."""

HIDDEN = -32_768
"""The value of a class of which nothing is disclosed."""

_AT_ONCE = 2**16
"""Logits that are encoded together."""

_MOST = STEPS // 2
_LARGEST = np.finfo(np.float32).max


class Int16Rows(NamedTuple):
    """Logits in this form: `values` int16 (..., K), `offset` and `scale` float32 (...)."""

    values: NDArray[np.int16]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


def encode(logits: NDArray[np.float32]) -> Int16Rows:
    """The form of float32 logits (..., K), K >= 1; the same logits always give the same bytes.

    Beside its result it needs some megabytes, however many rows there are.

    Raises:
        ValueError: a logit is NaN or +inf.
    """
    *shape, classes = logits.shape
    rows = logits.reshape(-1, classes)
    values = np.empty(rows.shape, np.int16)
    offset, scale = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    step = max(1, _AT_ONCE // classes)
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        values[some], offset[some], scale[some] = _encode(rows[some])
    return Int16Rows(values.reshape(logits.shape), offset.reshape(shape), scale.reshape(shape))


def _encode(logits: NDArray[np.float32]) -> Int16Rows:
    """Of a few rows (N, K)."""
    hidden = np.isneginf(logits)
    if not (np.isfinite(logits) | hidden).all():
        raise ValueError("a logit is NaN or +inf; int16 rows hold finite numbers and -inf")
    least = np.where(hidden, np.inf, logits).min(axis=-1).astype(np.float64)
    most = logits.max(axis=-1).astype(np.float64)
    silent = np.isneginf(most)
    least, most = np.where(silent, 0, least), np.where(silent, 0, most)
    offset = (least / 2 + most / 2).astype(np.float32)
    reach = np.maximum(most - offset, offset - least) / _MOST
    scale = _rounded_up(reach)
    steps = np.where(hidden, 0, logits) - offset[:, np.newaxis].astype(np.float64)
    steps /= np.where(scale > 0, scale, 1)[:, np.newaxis]
    values = np.where(hidden, HIDDEN, np.rint(steps)).astype(np.int16)
    return Int16Rows(values, offset, scale)


def decode(rows: Int16Rows) -> NDArray[np.float32]:
    """Float32 logits (..., K).

    Raises:
        ValueError: the arrays do not belong together, or a scale or an offset is none.
    """
    values, offset, scale = rows
    _check(values, offset=offset, scale=scale)
    logits = values.astype(np.float32)
    with np.errstate(over="ignore"):
        logits *= scale[..., np.newaxis]
        logits += offset[..., np.newaxis]
    np.clip(logits, -_LARGEST, _LARGEST, out=logits)  # an end that was rounded beyond float32
    logits[values == HIDDEN] = -np.inf
    return logits


def _rounded_up(reach: NDArray[np.float64]) -> NDArray[np.float32]:
    """The least float32 that is no less: so no value leaves its range."""
    near = reach.astype(np.float32)
    above: NDArray[np.float32] = np.where(
        near < reach, np.nextafter(near, np.float32(np.inf)), near
    )
    return above


def _check(values: NDArray[Any], *, offset: NDArray[Any], scale: NDArray[Any]) -> None:
    kinds = [str(array.dtype) for array in (values, offset, scale)]
    if kinds != ["int16", "float32", "float32"]:
        raise ValueError(f"logits, offset and scale are {kinds}; needed: int16, float32, float32")
    if not values.shape[:-1] == offset.shape == scale.shape:
        raise ValueError(
            f"logits {list(values.shape)}, offset {list(offset.shape)} and scale "
            f"{list(scale.shape)}: offset and scale need a number for each row"
        )
    if not np.isfinite(offset).all():
        raise ValueError("an offset is no finite number")
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError("a scale is negative or no finite number")
