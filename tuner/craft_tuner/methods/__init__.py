"""Methods by name. A method's module is imported when it is asked for: only some need torch."""

from collections.abc import Callable
from typing import get_args

from craft_tuner.config.fit_config import MethodName
from craft_tuner.errors import UsageError
from craft_tuner.methods.base import Method, OnProgress, Progress

__all__ = ["Method", "OnProgress", "Progress", "get", "names"]


def _zero_shot() -> Method:
    from craft_tuner.methods.zero_shot import ZeroShot  # noqa: PLC0415

    return ZeroShot()


def _template_ensemble() -> Method:
    from craft_tuner.methods.template_ensemble import TemplateEnsemble  # noqa: PLC0415

    return TemplateEnsemble()


def _head_only() -> Method:
    from craft_tuner.methods.head_only import HeadOnly  # noqa: PLC0415 - needs torch

    return HeadOnly()


def _text_search() -> Method:
    from craft_tuner.methods.text_search import TextSearch  # noqa: PLC0415

    return TextSearch()


def _bbt() -> Method:
    from craft_tuner.methods.bbt import BlackBoxTuning  # noqa: PLC0415

    return BlackBoxTuning()


def _zip() -> Method:
    from craft_tuner.methods.zip import Zip  # noqa: PLC0415

    return Zip()


def _spsa() -> Method:
    from craft_tuner.methods.spsa import Spsa  # noqa: PLC0415

    return Spsa()


def _craft() -> Method:
    from craft_tuner.methods.craft import Craft  # noqa: PLC0415 - needs torch

    return Craft()


def _craft_plus() -> Method:
    from craft_tuner.methods.bank import CraftPlus  # noqa: PLC0415 - needs scipy

    return CraftPlus()


def _bank() -> Method:
    from craft_tuner.methods.bank import Bank  # noqa: PLC0415 - needs scipy

    return Bank()


def _auto() -> Method:
    from craft_tuner.methods.auto import Auto  # noqa: PLC0415 - needs scipy

    return Auto()


_REGISTRY: dict[str, Callable[[], Method]] = {
    "zero_shot": _zero_shot,
    "template_ensemble": _template_ensemble,
    "head_only": _head_only,
    "text_search": _text_search,
    "bbt": _bbt,
    "spsa": _spsa,
    "zip": _zip,
    "craft": _craft,
    "craft_plus": _craft_plus,
    "bank": _bank,
    "auto": _auto,
}


def names() -> tuple[str, ...]:
    """Every method, simplest first."""
    return get_args(MethodName)


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in _REGISTRY:
        raise UsageError(f"method {name!r} does not exist; there are: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]()
