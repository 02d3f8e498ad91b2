"""With what a result was made: versions of programs and the kind of machine, never its name."""

import os
import platform
from importlib import metadata

from craft_shared import PROTOCOL_VERSION

_DISTRIBUTIONS = ("craft-blackbox", "cma", "numpy", "pillow", "torch")


def versions() -> dict[str, str]:
    """Versions of Python, the protocol, and what decides numbers; none of them is imported."""
    found = {"python": platform.python_version(), "protocol": PROTOCOL_VERSION}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Operating system, architecture and cores."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
    }
