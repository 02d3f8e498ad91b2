"""How many CPU threads torch takes on which thread of the server.

Only the device thread computes in parallel. libgomp lets its workers spin between two parallel
regions (environment.py says for how long) only while no more threads are managed than there are
CPUs; a second team, which any thread that touches a large tensor would start, makes the device's
workers sleep and wake instead, some two hundred times a pass: measured 20 ms instead of 14 for 40
prompts of the embedded model.
"""

import threading

import torch

_here = threading.local()


def compute_here(threads: int) -> None:
    """This thread is the device's: it computes on so many CPU threads."""
    _here.known = True
    torch.set_num_threads(threads)


def stay_small() -> None:
    """This thread computes alone, unless it is the device's."""
    if not getattr(_here, "known", False):
        compute_here(1)
