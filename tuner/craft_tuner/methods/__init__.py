"""Ways to adapt a black box, one a file; `craft_tuner.method_registry` lists them."""

from craft_tuner import method_registry
from craft_tuner.errors import UsageError
from craft_tuner.methods.affordable import affordable
from craft_tuner.methods.base import Method, OnProgress, Progress
from craft_tuner.methods.recorder import MemoryRecorder, Recorder

__all__ = [
    "MemoryRecorder",
    "Method",
    "OnProgress",
    "Progress",
    "Recorder",
    "affordable",
    "get",
    "names",
]

names = method_registry.names


def get(name: str) -> Method:
    """The method of this name, built-in or of an installed package.

    Raises:
        UsageError: there is none, or its package cannot be imported or brings something else.
    """
    found = method_registry.load(name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"method {name!r} is {found!r}; needed: a subclass of Method")
    missing = [*sorted(found.__abstractmethods__)]
    missing += [each for each in ("name", "summary") if not hasattr(found, each)]
    if missing:
        raise UsageError(f"method {name!r} ({found.__module__}) has no {', no '.join(missing)}")
    if found.name != name:
        raise UsageError(
            f"method {name!r} ({found.__module__}) calls itself {found.name!r}; its entry point "
            "and its class need one name"
        )
    try:
        return found()
    except TypeError as error:
        raise UsageError(f"method {name!r} ({found.__module__}) cannot be made: {error}") from error
