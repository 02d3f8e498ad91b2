"""What a key's policy discloses of logits: all, rounded, or less (`craft_shared.messages.Output`).

Owns the arithmetic of each kind of output. It works on rows of K logits, so that a reply says the
same whether it leaves whole or in blocks. docs/security.md says what each kind gives away.
"""

import numpy as np
from numpy.typing import NDArray

from craft_shared.limits import FINEST_STEP
from craft_shared.messages import Output

Rows = NDArray[np.float32]


def disclose(logits: Rows, output: Output) -> Rows:
    """Float32 (..., K) as the output says; -inf where nothing is disclosed of a class.

    The argument is not changed.
    """
    if output.kind == "logits":
        return logits
    if output.kind == "rounded" and output.step is not None:
        if output.step < FINEST_STEP:  # of an old key: float32 is coarser, and 0 would divide
            return logits
        step = np.float32(output.step)
        rounded: Rows = step * np.rint(logits / step)
        return rounded
    if output.kind == "label":
        return _label(logits)
    disclosed = _log_softmax(logits)
    if output.k is not None:
        _withhold(disclosed, np.argsort(-logits, axis=-1, kind="stable")[..., output.k :])
    return disclosed


def numbers_told(output: Output, classes: int) -> int:
    """How many numbers `disclose` tells of each row of that many classes."""
    if output.kind == "label":
        return 1
    return classes if output.k is None else min(output.k, classes)


def _log_softmax(logits: Rows) -> Rows:
    shifted: Rows = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _label(logits: Rows) -> Rows:
    disclosed = np.full_like(logits, -np.inf)
    best = logits.argmax(axis=-1)[..., np.newaxis]
    np.put_along_axis(disclosed, best, np.float32(0), axis=-1)
    return disclosed


def _withhold(disclosed: Rows, classes: NDArray[np.intp]) -> None:
    np.put_along_axis(disclosed, classes, np.float32(-np.inf), axis=-1)
