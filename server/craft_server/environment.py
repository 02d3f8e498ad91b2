"""What libraries must be told before they are loaded: they read it from the environment, once.

    ONEDNN_PRIMITIVE_CACHE_CAPACITY   oneDNN remembers a kernel for each of the last 1,024 shapes.
                                      Requests of ever new shapes make them ever more, and the
                                      small blocks pin the freed large ones around them: 1.6 GB
                                      where 0.9 are in use. 256 hold every shape of a tower.
    GOMP_SPINCOUNT                    How long OpenMP's threads spin for the next parallel region.
                                      libgomp's 300,000 rounds last milliseconds: beside another
                                      busy process a pass took 860 ms, with 2,000 rounds 53 ms, and
                                      alone no longer than before.

An environment that says otherwise stays as it is.
"""

import os

TOLD = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "GOMP_SPINCOUNT": "2000"}


def tell() -> None:
    """Set what is not set; call it before torch is imported."""
    for name, value in TOLD.items():
        os.environ.setdefault(name, value)
