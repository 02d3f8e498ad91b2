"""Error codes of the protocol, as RFC 9457 problem documents.

    CraftProtocolError            (root of this package)
    ├── Refusal                   a request that the server answers with a problem document
    └── MalformedTensors          bytes that are not a valid tensor body (see tensors.py)

`CODES` is the whole table: a code fixes its HTTP status and whether the very same request may be
sent again. Servers raise `Refusal`; clients parse the reply into `Problem`.
"""

from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

PROBLEM_MEDIA_TYPE = "application/problem+json"


class Code(StrEnum):
    """Every code that a server of this protocol may answer with."""

    INVALID_REQUEST = "invalid_request"
    IDEMPOTENCY_KEY_MISSING = "idempotency_key_missing"
    INVALID_KEY = "invalid_key"
    BUDGET_EXHAUSTED = "budget_exhausted"
    SCOPE_DENIED = "scope_denied"
    MODEL_DENIED = "model_denied"
    PROMPT_KIND_DENIED = "prompt_kind_denied"
    CLASS_NAMES_DENIED = "class_names_denied"
    NOT_FOUND = "not_found"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_IMAGE = "unknown_image"
    UNKNOWN_IMAGE_SET = "unknown_image_set"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_IN_PROGRESS = "request_in_progress"
    IMAGE_IN_USE = "image_in_use"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"
    UNDECODABLE_IMAGE = "undecodable_image"
    TOO_MANY_TOKENS = "too_many_tokens"
    NON_FINITE_OFFSETS = "non_finite_offsets"
    NON_FINITE_LOGITS = "non_finite_logits"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    RATE_LIMITED = "rate_limited"
    BUDGET_HELD = "budget_held"
    INTERNAL = "internal"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"


class Rule(NamedTuple):
    """What a code means on the wire: its HTTP status, a title for people, whether to retry."""

    status: int
    title: str
    retryable: bool = False


CODES: dict[Code, Rule] = {
    Code.INVALID_REQUEST: Rule(400, "The request is not valid"),
    Code.IDEMPOTENCY_KEY_MISSING: Rule(400, "A metered call needs an Idempotency-Key"),
    Code.INVALID_KEY: Rule(401, "The API key is missing, unknown, revoked or expired"),
    Code.BUDGET_EXHAUSTED: Rule(402, "The key's budget does not cover this request"),
    Code.SCOPE_DENIED: Rule(403, "The key lacks the scope for this call"),
    Code.MODEL_DENIED: Rule(403, "The key may not use this model"),
    Code.PROMPT_KIND_DENIED: Rule(403, "This kind of prompt is switched off"),
    Code.CLASS_NAMES_DENIED: Rule(403, "The key may not ask about these class names"),
    Code.NOT_FOUND: Rule(404, "There is nothing at this address"),
    Code.UNKNOWN_MODEL: Rule(404, "No such model"),
    Code.UNKNOWN_IMAGE: Rule(404, "No such image"),
    Code.UNKNOWN_IMAGE_SET: Rule(404, "No such image set"),
    Code.METHOD_NOT_ALLOWED: Rule(405, "This address does not take that method"),
    Code.REQUEST_IN_PROGRESS: Rule(
        409, "A request with this Idempotency-Key is running", retryable=True
    ),
    Code.IMAGE_IN_USE: Rule(409, "An image set holds this image"),
    Code.TOO_LARGE: Rule(413, "The request is larger than this server allows"),
    Code.MEDIA_TYPE: Rule(415, "This media type or encoding is not accepted"),
    Code.UNDECODABLE_IMAGE: Rule(422, "An image cannot be decoded"),
    Code.TOO_MANY_TOKENS: Rule(422, "A prompt is longer than the model's context"),
    Code.NON_FINITE_OFFSETS: Rule(422, "An offset is not a finite number"),
    Code.NON_FINITE_LOGITS: Rule(
        422, "The offsets led to logits that are not finite; their price was charged"
    ),
    Code.IDEMPOTENCY_KEY_REUSED: Rule(422, "This Idempotency-Key is another request's"),
    Code.RATE_LIMITED: Rule(429, "Too many requests", retryable=True),
    Code.BUDGET_HELD: Rule(
        429, "The rest of the budget is held by requests in flight", retryable=True
    ),
    Code.INTERNAL: Rule(500, "The server failed; a request is never charged twice"),
    Code.OVERLOADED: Rule(503, "The queue is full", retryable=True),
    Code.DRAINING: Rule(503, "The server is shutting down", retryable=True),
    Code.NOT_READY: Rule(503, "The server is not ready", retryable=True),
    Code.DEADLINE_EXCEEDED: Rule(
        504, "The request took too long and was not charged", retryable=True
    ),
}


class Problem(BaseModel):
    """The body of every error reply (`application/problem+json`)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    param: str | None = None
    request_id: str | None = None


class CraftProtocolError(Exception):
    """Root of the exceptions of craft_shared."""


class Refusal(CraftProtocolError):
    """A request is refused: nothing is charged for it, and the next one works.

    Only `non_finite_logits` is charged: the work was done.

    Attributes:
        code: decides status and retry rule (`CODES`).
        detail: what was wrong, the value, what is allowed.
        param: the field or header at fault, as a path such as `prompts.templates[3]`.
        retry_after_s: whole seconds after which the same request may succeed.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """HTTP status of the code."""
        return CODES[self.code].status

    def problem(self, request_id: str | None = None) -> Problem:
        """The reply body for this refusal."""
        rule = CODES[self.code]
        return Problem(
            type=f"urn:craft:error:{self.code}",
            title=rule.title,
            status=rule.status,
            detail=self.detail,
            code=self.code,
            retryable=rule.retryable,
            param=self.param,
            request_id=request_id,
        )
