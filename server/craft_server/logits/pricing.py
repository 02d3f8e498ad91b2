"""Check a request against model, limits and owner, and price it: before any work, exactly.

Owns every rule that can be decided without a device and without a budget. One query is one prompt
on one image set, so a request of P prompts costs P.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from craft_server.accounts.identity import Key
from craft_server.accounts.policy import check_count, check_request
from craft_server.engine.blackbox import BlackBox, FloatArray, Prompts
from craft_server.images.store import ImageSetRecord, ImageStore
from craft_server.logits.disclosure import numbers_told
from craft_shared.errors import Code, Refusal
from craft_shared.limits import MAX_IDEMPOTENCY_KEY_CHARS
from craft_shared.messages import CardLimits, Counters, LogitsRequest, TextPrompts


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


class Pricing:
    """Prices requests to one black box."""

    def __init__(self, blackbox: BlackBox, images: ImageStore) -> None:
        self._blackbox = blackbox
        self._images = images

    def price(
        self, key: Key, request: LogitsRequest, *, offsets: FloatArray | None, idempotency_key: str
    ) -> PricedRequest:
        """Check and price a request. Touches no budget.

        Args:
            key: who asks; sees only its owner's images.
            request: what is asked.
            offsets: float32 (P, n_ctx, width) of soft prompts, checked to be finite.
            idempotency_key: the client's name for this purchase.

        Raises:
            Refusal: whatever is wrong with it.
        """
        card = self._blackbox.card
        policy = key.policy
        _check_idempotency_key(idempotency_key)
        check_request(policy, request)
        if request.model != card.id:
            detail = f"model {request.model!r} is not served here; served: {card.id!r}"
            raise Refusal(Code.UNKNOWN_MODEL, detail, param="model")
        prompts, classes = count_prompts(request, offsets), len(request.class_names)
        _check_limits(card.limits, prompts=prompts, classes=classes)
        images = self._images.find_set(key.owner, request.image_set)
        check_count(policy.max_images, len(images.digests), "images", "image_set")
        _check_logits(card.limits, prompts=prompts, images=len(images.digests), classes=classes)
        return PricedRequest(
            key=key,
            idempotency_key=idempotency_key,
            request=request,
            prompts=self._blackbox.prepare(request, offsets),
            images=images,
            cost=Counters(
                queries=prompts,
                calls=1,
                logit_vectors=prompts * len(images.digests),
                texts=prompts * classes,
                logits=prompts * len(images.digests) * numbers_told(policy.output, classes),
            ),
            fingerprint=_fingerprint(card.digest, request, offsets),
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


def _check_logits(limits: CardLimits, *, prompts: int, images: int, classes: int) -> None:
    logits = prompts * images * classes
    if prompts * classes > limits.texts:
        detail = (
            f"{prompts} prompts x {classes} classes = {prompts * classes} texts, at most "
            f"{limits.texts} in one request; send fewer prompts at a time"
        )
        raise Refusal(Code.TOO_LARGE, detail, param="prompts")
    if logits > limits.logits:
        detail = (
            f"{prompts} prompts x {images} images x {classes} classes = {logits} logits, at most "
            f"{limits.logits} in one request; send fewer prompts at a time"
        )
        raise Refusal(Code.TOO_LARGE, detail, param="prompts")


def _check_idempotency_key(value: str) -> None:
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
    text = json.dumps([digest, content], sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode())
    if offsets is not None:
        fingerprint.update(np.ascontiguousarray(offsets, "<f4").tobytes())
    return fingerprint.hexdigest()
