"""Settings that a method declares in its own file, and how they join those that all fits share.

A method's class has an attribute `settings`, a subclass of `MethodSettings`. Every fit has the
settings of all built-in methods, because a preset or a bench sets several methods' at once, and of
the method of another package that it is of.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from craft_tuner import method_registry
from craft_tuner.errors import UsageError

Fields = Mapping[str, FieldInfo]


class MethodSettings(BaseModel):
    """Base of a method's settings: each field with default, bounds and description."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    listed_after: ClassVar[str | None] = None
    """The setting that these stand behind in lists, config.json and adapters; None: the last one.

    Only the methods of version 0.1 say one: their adapters keep their bytes.
    """


Model = type[MethodSettings]


def models(foreign: str | None = None) -> tuple[Model, ...]:
    """Settings of the built-in methods, and of one of another package; each model once.

    Raises:
        UsageError: the other package's method cannot be imported, or its settings are none.
    """
    names = [*method_registry.BUILT_IN, *([foreign] if foreign else [])]
    found = [_of(name) for name in names]
    return tuple(dict.fromkeys(model for model in found if model is not None))


def _of(name: str) -> Model | None:
    """The settings that a method declares.

    Raises:
        UsageError: it cannot be imported, or declares something else.
    """
    model: object = getattr(method_registry.load(name), "settings", None)
    if model is None:
        return None
    if not (isinstance(model, type) and issubclass(model, MethodSettings)):
        raise UsageError(
            f"method {name!r}: its settings are {model!r}; needed: a subclass of MethodSettings, "
            "or None"
        )
    required = [field for field, info in model.model_fields.items() if info.is_required()]
    if required:
        raise UsageError(f"method {name!r}: the setting {required[0]} has no default; give it one")
    return model


def joined(
    shared: Fields, own: Iterable[Model], *, reserved: Collection[str] = ()
) -> dict[str, FieldInfo]:
    """The fields of all, in the order in which they are listed; none may have a `reserved` name.

    Raises:
        UsageError: two have a setting of one name, or one has a reserved name.
    """
    fields = dict(shared)
    for model in own:
        taken = {*fields, *reserved} & model.model_fields.keys()
        if taken:
            raise UsageError(
                f"{model.__module__}: a setting is called {min(taken)} already; choose another name"
            )
        fields = _inserted(fields, model)
    return fields


def _inserted(fields: dict[str, FieldInfo], model: Model) -> dict[str, FieldInfo]:
    names = [*fields]
    place = names.index(model.listed_after) + 1 if model.listed_after in fields else len(names)
    order = [*names[:place], *model.model_fields, *names[place:]]
    everything = {**fields, **model.model_fields}
    return {name: everything[name] for name in order}


def of_others(given: Mapping[str, Any], known: Fields) -> frozenset[str]:
    """Those given settings that only an installed method of another package knows.

    Looks at these methods only where a name is unknown otherwise.
    """
    unknown = given.keys() - known.keys()
    if not unknown:
        return frozenset()
    foreign: set[str] = set()
    for name in method_registry.installed():
        with suppress(UsageError):  # of a broken package: it is named when it is asked for
            model = _of(name)
            foreign |= model.model_fields.keys() if model else set()
    return frozenset(unknown & foreign)
