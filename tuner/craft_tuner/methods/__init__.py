"""Ways to adapt a black box, one a file; `craft_tuner.method_registry` lists them."""

from craft_tuner import method_registry
from craft_tuner.methods.base import Method, OnProgress, Progress
from craft_tuner.methods.recorder import MemoryRecorder, Recorder

__all__ = ["MemoryRecorder", "Method", "OnProgress", "Progress", "Recorder", "get", "names"]

names = method_registry.names


def get(name: str) -> Method:
    """The method of this name, built-in or of an installed package.

    Raises:
        UsageError: there is none, or its package cannot be imported.
    """
    method: Method = method_registry.load(name)()
    return method
