"""What is wrong with settings, in words: the name, the value, the reason, what the setting is.

Owns the sentence; the settings themselves come with the call.
"""

import difflib
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo

Fields = Mapping[str, FieldInfo]


def explain(error: ValidationError, fields: Fields) -> str:
    """One sentence for all that pydantic refused in settings of these fields."""
    faults = [
        _fault(fields, fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()
    ]
    return "configuration: " + "; ".join(faults)


def _fault(fields: Fields, location: tuple[int | str, ...], reason: str, value: object) -> str:
    name = str(location[0]) if location else ""
    reason = reason.removeprefix("Value error, ")
    if not name:
        return reason
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(fields)}"
        return f"no setting is called {name}; {hint}"
    return f"{name} = {value!r}: {reason} ({name} is: {fields[name].description})"
