"""Check a request against model, limits and owner, and price it: before any work, exactly.

Owns every rule that can be decided without a device and without a budget, in this order: what
numbers decide (`check`, `price`), then what has to be read (`plan`). One query is one prompt on
one image set, so a request of P prompts costs P.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from craft_server.accounts.identity import Key
from craft_server.accounts.policy import check_count, check_request
from craft_server.engine.blackbox import BlackBox, FloatArray, Prompts, Steps
from craft_server.images.store import ImageSetRecord
from craft_server.logits.disclosure import numbers_told
from craft_server.metering.meter import check_same
from craft_shared.errors import Code, Refusal
from craft_shared.limits import MAX_IDEMPOTENCY_KEY_CHARS, MAX_TEXTS_PER_CHECK
from craft_shared.messages import (
    CardLimits,
    Counters,
    LogitsRequest,
    Policy,
    RefusedText,
    TextPrompts,
    TextsReply,
    TextsRequest,
)

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

_SMALL_BYTES = 2**19
"""Offsets that are hashed in less than a millisecond."""


@dataclass(frozen=True)
class PricedRequest:
    """One checked and priced request: all that is needed to carry it out."""

    key: Key
    idempotency_key: str
    request: LogitsRequest
    prompts: Prompts
    images: ImageSetRecord
    cost: Counters
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the reply: (P, N, K)."""
        return (
            self.prompts.count,
            len(self.images.digests),
            len(self.prompts.class_names),
        )


@dataclass(frozen=True)
class Order:
    """A request as it came, and who asks; `offsets` float32 (P, n_ctx, width) of soft prompts."""

    key: Key
    idempotency_key: str
    request: LogitsRequest
    offsets: FloatArray | None


@dataclass(frozen=True)
class Quote:
    """A checked request and its price, of which nothing was read but numbers.

    `bought` is the fingerprint of what was bought under its name; None if nothing was, or if nobody
    has looked.
    """

    order: Order
    cost: Counters
    bought: str | None = None


class Pricing:
    """Prices requests to one black box."""

    def __init__(self, blackbox: BlackBox) -> None:
        self._blackbox = blackbox

    def check(self, order: Order) -> None:
        """Refuse what the policy or the card's counts do not allow.

        Raises:
            Refusal: whatever is wrong with it.
        """
        request = order.request
        check_idempotency_key(order.idempotency_key)
        self._check_asked(order.key.policy, request)
        prompts, classes = count_prompts(request, order.offsets), len(request.class_names)
        _check_limits(self._blackbox.card.limits, prompts=prompts, classes=classes)

    def check_texts(self, policy: Policy, request: TextsRequest) -> int:
        """Refuse what a request for logits of the same texts is refused for; how many texts.

        Raises:
            Refusal: as `check`, and `too_large` for the texts of all prompts.
        """
        self._check_asked(policy, request)
        limits, classes = self._blackbox.card.limits, len(request.class_names)
        prompts = len(request.prompts.templates) if isinstance(request.prompts, TextPrompts) else 1
        _check_limits(limits, prompts=prompts, classes=classes)
        most = min(limits.texts, max(MAX_TEXTS_PER_CHECK, classes))
        _check_texts(most, prompts=prompts, classes=classes)
        return prompts * classes

    def count_in_steps(self, request: TextsRequest) -> Steps[TextsReply]:
        """Count the tokens of checked texts, text by text.

        Raises:
            Refusal: what the model finds wrong that is no single class name's fault.
        """
        prompts, names = request.prompts, request.class_names
        counted = yield from self._blackbox.count_in_steps(prompts, names)
        refused = [
            RefusedText(
                prompt=number // len(names),
                class_name=number % len(names),
                code=refusal.code,
                detail=refusal.detail,
            )
            for number, refusal in counted.refused
        ]
        return TextsReply(
            model=request.model,
            longest=counted.longest,
            most=self._blackbox.card.context_length,
            context=counted.context,
            refused=refused,
        )

    def _check_asked(self, policy: Policy, request: LogitsRequest | TextsRequest) -> None:
        """Policy and model; none of it counts."""
        check_request(policy, request)
        card = self._blackbox.card
        if request.model != card.id:
            detail = f"model {request.model!r} is not served here; served: {card.id!r}"
            raise Refusal(Code.UNKNOWN_MODEL, detail, param="model")

    def price(self, order: Order, images: int) -> Counters:
        """The exact price of a checked request on so many images. Touches no budget.

        Raises:
            Refusal: `too_large`.
        """
        request, policy, limits = order.request, order.key.policy, self._blackbox.card.limits
        prompts, classes = count_prompts(request, order.offsets), len(request.class_names)
        rows = prompts * images
        check_count(policy.max_images, images, "images", "image_set")
        _check_logits(limits, prompts=prompts, images=images, classes=classes)
        return Counters(
            queries=prompts,
            calls=1,
            logit_vectors=rows,
            texts=prompts * classes,
            logits=rows * numbers_told(policy.output, classes),
        )

    def plan(self, quote: Quote) -> Steps[Callable[[ImageSetRecord], PricedRequest]]:
        """Read what is asked for, step by step. What comes before the first takes little time.

        The set is needed last: nobody looks up its images for a request that is refused.

        Returns:
            Takes the set, and gives the request.

        Raises:
            Refusal: whatever the model finds wrong with the prompts, or `check_same`.
        """
        order, card = quote.order, self._blackbox.card
        request, offsets = order.request, order.offsets
        if offsets is not None and offsets.nbytes > _SMALL_BYTES:
            yield
        fingerprint = _fingerprint(card.digest, request, offsets)
        if quote.bought is not None:
            check_same(order.idempotency_key, quote.bought, fingerprint)
        _check_offsets(card.limits, offsets)
        prompts = yield from self._blackbox.prepare_in_steps(request, offsets)
        return lambda images: PricedRequest(
            key=order.key,
            idempotency_key=order.idempotency_key,
            request=request,
            prompts=prompts,
            images=images,
            cost=quote.cost,
            fingerprint=fingerprint,
        )


def count_prompts(request: LogitsRequest, offsets: FloatArray | None) -> int:
    """P, which is also the price in queries; refuses soft prompts without offsets."""
    if isinstance(request.prompts, TextPrompts):
        return len(request.prompts.templates)
    if offsets is None:
        raise Refusal(Code.INVALID_REQUEST, "soft prompts need offsets", param="prompts.offsets")
    return len(offsets)


def _check_limits(limits: CardLimits, *, prompts: int, classes: int) -> None:
    if prompts > limits.prompts:
        detail = f"{prompts} prompts, at most {limits.prompts} in one request"
        raise Refusal(Code.TOO_LARGE, detail, param="prompts")
    if classes > limits.classes:
        detail = f"{classes} class names, at most {limits.classes} in one request"
        raise Refusal(Code.TOO_LARGE, detail, param="class_names")


def _check_texts(most: int, *, prompts: int, classes: int) -> None:
    if prompts * classes > most:
        detail = (
            f"{prompts} prompts x {classes} classes = {prompts * classes} texts, at most "
            f"{most} in one request; send fewer prompts at a time"
        )
        raise Refusal(Code.TOO_LARGE, detail, param="prompts")


def _check_logits(limits: CardLimits, *, prompts: int, images: int, classes: int) -> None:
    logits = prompts * images * classes
    _check_texts(limits.texts, prompts=prompts, classes=classes)
    if logits > limits.logits:
        detail = (
            f"{prompts} prompts x {images} images x {classes} classes = {logits} logits, at most "
            f"{limits.logits} in one request; send fewer prompts at a time"
        )
        raise Refusal(Code.TOO_LARGE, detail, param="prompts")


def _check_offsets(limits: CardLimits, offsets: FloatArray | None) -> None:
    """Refuse offsets by which a tower could overflow; so much is far beyond any embedding."""
    if offsets is None or limits.offset is None:
        return
    largest = max(float(offsets.max()), -float(offsets.min()))
    if largest > limits.offset:
        where = [int(axis) for axis in np.argwhere(np.abs(offsets) > limits.offset)[0]]
        detail = (
            f"offsets{where} is {offsets[tuple(where)]}; every offset must be from "
            f"{-limits.offset} to {limits.offset}"
        )
        raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")


def check_idempotency_key(value: str) -> None:
    """Refuse the name of a purchase that is missing, or cannot be kept."""
    if not value:
        detail = "send the header Idempotency-Key: a value of your own, the same on every retry"
        raise Refusal(Code.IDEMPOTENCY_KEY_MISSING, detail, param="Idempotency-Key")
    if len(value) > MAX_IDEMPOTENCY_KEY_CHARS or not (value.isascii() and value.isprintable()):
        detail = (
            f"{len(value)} characters; allowed are 1 to {MAX_IDEMPOTENCY_KEY_CHARS} printable "
            f"ASCII characters"
        )
        raise Refusal(Code.INVALID_REQUEST, detail, param="Idempotency-Key")


def _fingerprint(digest: str, request: LogitsRequest, offsets: FloatArray | None) -> str:
    """SHA-256 of what is bought; tag, run and transport do not count."""
    content = request.model_dump(
        mode="json", exclude={"tag": True, "run": True, "prompts": {"offsets"}}
    )
    fingerprint = hashlib.sha256(_canonical([digest, content]).encode())
    if offsets is not None:
        fingerprint.update(np.ascontiguousarray(offsets, "<f4").tobytes())
    return fingerprint.hexdigest()
