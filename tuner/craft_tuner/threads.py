"""One thread for the tuner's own arithmetic: the same bits on any number of cores, and faster.

numpy's matrix products and eigenvectors differ in the last bits with the number of threads, so a
run resumed on a machine with more cores would ask other prompts and pay twice. And at these sizes
threads cost more than they give: a generation of pycma at d = 512 took 20 ms on one thread, 90 to
480 ms on two of two busy cores; an epoch of the head 1 ms against 5.

Owns numpy's threads; `craft_tuner.heads.residual` does the same for torch's.
"""

from contextlib import AbstractContextManager

import numpy as np  # noqa: F401 - the controller sees libraries that are loaded before it
from threadpoolctl import ThreadpoolController

_CONTROLLER = ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[object]:
    """A context in which numpy's linear algebra runs on one thread."""
    limited: AbstractContextManager[object] = _CONTROLLER.limit(limits=1, user_api="blas")
    return limited
