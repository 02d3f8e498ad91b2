"""What a key is told of logits: all of them, rounded, or less (`craft_shared.messages.Output`).

Works on rows of K logits, so that a reply gives the same whether it leaves whole or in blocks. Must
not know keys, HTTP or the model. docs/security.md says what each kind gives away.
"""

import numpy as np
from numpy.typing import NDArray

from craft_shared.messages import Output

Rows = NDArray[np.float32]


def tell(logits: Rows, output: Output) -> Rows:
    """Float32 (..., K) as the output says; -inf where nothing is told of a class.

    The argument is left as it is.
    """
    if output.kind == "logits":
        return logits
    if output.kind == "rounded":
        step = np.float32(output.step)
        rounded: Rows = step * np.rint(logits / step)
        return rounded
    if output.kind == "label":
        return _label(logits)
    told = _log_softmax(logits)
    if output.k is not None:
        _forget(told, np.argsort(-logits, axis=-1, kind="stable")[..., output.k :])
    return told


def _log_softmax(logits: Rows) -> Rows:
    shifted: Rows = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _label(logits: Rows) -> Rows:
    told = np.full_like(logits, -np.inf)
    best = logits.argmax(axis=-1)[..., np.newaxis]
    np.put_along_axis(told, best, np.float32(0), axis=-1)
    return told


def _forget(told: Rows, classes: NDArray[np.intp]) -> None:
    np.put_along_axis(told, classes, np.float32(-np.inf), axis=-1)
