"""What a key's policy means: a card that says what the key may do, and refusals of the rest.

The card of a model as a key sees it is the whole truth for that key, so that a client which
respects cards never meets a policy.
"""

from collections.abc import Sequence
from typing import NoReturn, get_args

from craft_shared.errors import Code, Refusal
from craft_shared.messages import (
    LogitsRequest,
    ModelCard,
    Policy,
    ReplyDtype,
    TextsRequest,
    different_names,
)


def may_use(card: ModelCard, policy: Policy) -> bool:
    """May a key with this policy use the model at all?"""
    return policy.models is None or card.id in policy.models


def as_seen(card: ModelCard, policy: Policy) -> ModelCard:
    """The card with what the policy allows, and what this server can answer."""
    kinds, names = policy.prompt_kinds, policy.class_names
    classes = _least(card.limits.classes, policy.max_classes)
    limits = card.limits.model_copy(
        update={
            "classes": classes if names is None else min(classes, len(names)),
            "min_classes": policy.output.min_classes if names is None else len(names),
            "images": _least(card.limits.images, policy.max_images),
        }
    )
    return card.model_copy(
        update={
            "prompt_kinds": [kind for kind in card.prompt_kinds if kinds is None or kind in kinds],
            "output": policy.output.kind,
            "class_names": names,
            "limits": limits,
            "reply_dtypes": list(get_args(ReplyDtype)),
        }
    )


def check_request(policy: Policy, request: LogitsRequest | TextsRequest) -> None:
    """Refuse what the policy does not allow, before anything is priced.

    Raises:
        Refusal: `model_denied`, `prompt_kind_denied`, `class_names_denied` or `too_large`.
    """
    if policy.models is not None and request.model not in policy.models:
        detail = f"this key may use {_list(policy.models)}, not {request.model!r}"
        raise Refusal(Code.MODEL_DENIED, detail, param="model")
    kind, kinds = request.prompts.kind, policy.prompt_kinds
    if kinds is not None and kind not in kinds:
        detail = f"this key may send {_list(kinds)} prompts, not {kind!r}"
        raise Refusal(Code.PROMPT_KIND_DENIED, detail, param="prompts.kind")
    check_count(policy.max_classes, len(request.class_names), "class names", "class_names")
    _check_names(policy, request.class_names)


def check_count(allowed: int | None, count: int, what: str, param: str) -> None:
    """Refuse more than a policy's limit."""
    if allowed is not None and count > allowed:
        detail = f"{count} {what}, this key may ask about at most {allowed} in one request"
        raise Refusal(Code.TOO_LARGE, detail, param=param)


def _check_names(policy: Policy, names: Sequence[str]) -> None:
    fixed, fewest = policy.class_names, policy.output.min_classes
    if fixed is not None and names != fixed:
        if len(names) != len(fixed):
            _refuse_names(f"this key asks about its {len(fixed)} class names, not {len(names)}")
        if others := set(names) - set(fixed):
            _refuse_names(f"{min(others)!r} is none of the names that this key may ask about")
        if sorted(names) != sorted(fixed):
            _refuse_names("this key asks about each of its class names as often as its list does")
    if fewest > 1 and (found := different_names(names)) < fewest:
        _refuse_names(f"{found} different class names, this key needs at least {fewest}")


def _refuse_names(detail: str) -> NoReturn:
    raise Refusal(Code.CLASS_NAMES_DENIED, detail, param="class_names")


def _least(server: int, policy: int | None) -> int:
    return server if policy is None else min(server, policy)


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
