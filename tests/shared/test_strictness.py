"""What a client or an owner sends is refused where it has an unknown field, at every depth."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from craft_shared import admin, messages
from craft_shared.messages import Request

SENT = [
    model
    for module in (admin, messages)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, Request)
]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every message that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The message and all that its fields may hold."""
    found, ahead = {model}, [model]
    while ahead:
        for field in ahead.pop().model_fields.values():
            new = set(models_in(field.annotation)) - found
            found |= new
            ahead += new
    return found


@pytest.mark.parametrize("model", SENT, ids=lambda model: model.__name__)
def test_unknown_fields_are_refused_at_every_depth(model: type[BaseModel]) -> None:
    lax = {each.__name__ for each in reachable(model) if each.model_config.get("extra") != "forbid"}
    assert lax == set()


def test_a_policy_reaches_down_to_its_output() -> None:
    assert admin.OutputRequest in reachable(admin.KeyRequest)
