"""Methods by name: import paths of the built-in ones, entry points of installed packages.

Nothing is imported before it is asked for. `craft_tuner.methods` hands out the methods, and
`craft_tuner.config` asks here which settings they have.
"""

import pkgutil
from functools import cache
from importlib import metadata
from typing import Any

from craft_tuner.errors import UsageError

GROUP = "craft_blackbox.methods"
"""Entry points of other packages: `name = "module:Class"`, a subclass of `methods.base.Method`."""

BUILT_IN = {
    "zero_shot": "craft_tuner.methods.zero_shot:ZeroShot",
    "template_ensemble": "craft_tuner.methods.template_ensemble:TemplateEnsemble",
    "head_only": "craft_tuner.methods.head_only:HeadOnly",
    "text_search": "craft_tuner.methods.text_search:TextSearch",
    "bbt": "craft_tuner.methods.bbt:BlackBoxTuning",
    "spsa": "craft_tuner.methods.spsa:Spsa",
    "zip": "craft_tuner.methods.zip:Zip",
    "craft": "craft_tuner.methods.craft:Craft",
    "craft_plus": "craft_tuner.methods.bank:CraftPlus",
    "bank": "craft_tuner.methods.bank:Bank",
    "auto": "craft_tuner.methods.auto:Auto",
}
"""Simplest first. A built-in method is a file and a line here."""


@cache
def installed() -> dict[str, str]:
    """Import paths of the methods that other packages bring, by name; a built-in name stands."""
    found = sorted(metadata.entry_points(group=GROUP))
    return {point.name: point.value for point in found if point.name not in BUILT_IN}


def names() -> tuple[str, ...]:
    """Every method: built-in ones, simplest first, then installed ones by name."""
    return (*BUILT_IN, *installed())


def absent() -> str:
    """What to say of a name that no method has."""
    return f"does not exist; there are: {', '.join(names())}"


def load(name: str) -> Any:
    """The class of a method.

    Raises:
        UsageError: no method has this name, several packages bring one, or the package that
            brings it cannot be imported.
    """
    if name in BUILT_IN:
        return pkgutil.resolve_name(BUILT_IN[name])
    if name not in installed():
        raise UsageError(f"method {name!r} {absent()}")
    path = installed()[name]
    paths = sorted({point.value for point in metadata.entry_points(group=GROUP, name=name)})
    if paths[1:]:
        raise UsageError(
            f"method {name!r} is brought by several packages ({', '.join(paths)}); remove all but "
            "one of them"
        )
    try:
        return pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"method {name!r} ({path}, of another package) cannot be imported: "
            f"{type(error).__name__}: {error}; install that package again or remove it"
        ) from error
