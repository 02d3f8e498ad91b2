"""Which prompts of a bank to keep where each answer may cost few: the most informative ones.

Owns the order of prompts; labels play no part in it.
"""

import numpy as np

from craft_tuner.blackbox import FloatArray
from craft_tuner.threads import one_blas_thread

JUDGES = 1000
"""Images that are enough to judge prompts by."""


def informative(logits: FloatArray) -> list[int]:
    """Prompts by how much their logits (P, N, K') tell images apart; the first stays first.

    Greedy D-optimal design: each prompt in turn is the one that adds most to
    log det(I + sum_p X_p X_p^T / tau), X_p its centred logits and tau their mean square over all.
    Of more than `JUDGES` images, evenly spaced ones stand for all.
    """
    order, rest = [0], [*range(1, len(logits))]
    if not rest:
        return order
    with one_blas_thread():
        centred = logits[:, :: -(-logits.shape[1] // JUDGES)].astype(np.float64)
        centred -= centred.mean(axis=1, keepdims=True)
        grams = centred @ centred.transpose(0, 2, 1) / max(float((centred**2).mean()), 1e-12)
        total = np.eye(centred.shape[1]) + grams[0]
        while rest:
            gains = {index: float(np.linalg.slogdet(total + grams[index])[1]) for index in rest}
            order.append(max(rest, key=lambda index: gains[index]))
            rest.remove(order[-1])
            total += grams[order[-1]]
    return order
