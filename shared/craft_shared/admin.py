"""Messages of /v1/admin: a server's owner mints keys, changes them and sees what was done.

All of them need a key with the scope `admin`, which can do nothing else.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from craft_shared.limits import FINEST_STEP, MAX_OWNER_CHARS
from craft_shared.messages import (
    Budgets,
    Count,
    Output,
    Policy,
    Reply,
    Request,
    different_names,
)

Owner = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_OWNER_CHARS, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
KeyId = Annotated[str, StringConstraints(pattern=r"^key_[0-9a-f]{1,28}$")]
ClientScope = Literal["logits:read", "images:write", "usage:read"]
KeyState = Literal["active", "expired", "revoked"]


def _in_one_fault(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """What is neither is one fault of the field, not one for each that it could have been."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"{value!r} is neither a whole number from 0 nor `unlimited`") from None


AnyLimit = Annotated[Count | Literal["unlimited"] | None, WrapValidator(_in_one_fault)]

CLIENT_SCOPES: tuple[ClientScope, ...] = ("logits:read", "images:write", "usage:read")
"""What a key may do unless its maker says otherwise: all but `admin`."""


class OtherLimits(TypedDict, total=False):
    """The limits that a key need not have; one that is None or absent is not said."""

    logit_vectors_limit: AnyLimit
    texts_limit: AnyLimit
    logits_limit: AnyLimit


_DEFAULT = "None is the server's default for new keys"


class OutputRequest(Output):
    """An output as an owner sets it; a misspelt field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: float | None = Field(
        None, ge=FINEST_STEP, allow_inf_nan=False, description="of `rounded`"
    )


class PolicyRequest(Policy):
    """A policy as an owner sets it; a misspelt field is refused, also inside `output`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: OutputRequest = Field(
        OutputRequest(), description="what is disclosed to it of the logits"
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> "PolicyRequest":
        names, most, fewest = self.class_names, self.max_classes, self.output.min_classes
        if names is not None and different_names(names) < fewest:
            found = f"class_names has {different_names(names)} different names"
            raise ValueError(f"{found}, top_k with k = {self.output.k} needs at least {fewest}")
        if most is not None and most < fewest:
            found = f"max_classes is {most}"
            raise ValueError(f"{found}, top_k with k = {self.output.k} needs at least {fewest}")
        if names is not None and most is not None and most < len(names):
            raise ValueError(f"max_classes is {most}, class_names has {len(names)}")
        return self


class KeyRequest(Request):
    """POST /v1/admin/keys: mint a key."""

    owner: Owner = Field(description="whom it belongs to; an owner's keys share images")
    queries_limit: Count = Field(description="queries that it may buy")
    logit_vectors_limit: AnyLimit = Field(None, description=_DEFAULT)
    texts_limit: AnyLimit = Field(None, description=_DEFAULT)
    logits_limit: AnyLimit = Field(None, description=_DEFAULT)
    scopes: list[ClientScope] = Field(list(CLIENT_SCOPES), min_length=1)
    expires_at: datetime | None = Field(None, description="UTC without a zone; None is for good")
    policy: PolicyRequest = PolicyRequest()


class KeyChange(Request):
    """PATCH /v1/admin/keys/{id}: what is given is changed, the rest stays."""

    queries_limit: Count | None = None
    logit_vectors_limit: AnyLimit = None
    texts_limit: AnyLimit = None
    logits_limit: AnyLimit = None
    scopes: Annotated[list[ClientScope], Field(min_length=1)] | None = None
    expires_at: datetime | Literal["never"] | None = None
    policy: PolicyRequest | None = Field(None, description="replaces the whole policy")


class KeyRotation(Request):
    """POST /v1/admin/keys/{id}/rotate: a new token for the same key, budget and images."""

    grace_s: float = Field(
        0, ge=0, le=30 * 24 * 3600, description="seconds for which the old token still works"
    )


class KeyRecord(Reply):
    """A key as an administrator sees it; its token cannot be shown again by anybody."""

    id: str
    owner: str
    state: KeyState
    scopes: list[str]
    budgets: Budgets
    policy: Policy
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class MintedKey(KeyRecord):
    """A new key, or a new token of one: `key` is shown here and never again."""

    key: str


class KeyRecords(Reply):
    """GET /v1/admin/keys: a page, oldest first; ask again with `after=next` for more."""

    keys: list[KeyRecord]
    next: str | None


class FieldChange(Reply):
    """One thing that an act changed, as text; `was` is None for what is new."""

    field: str
    was: str | None
    now: str | None


class Act(Reply):
    """One line of the audit log."""

    id: int
    at: datetime
    actor: str = Field(description="id of the admin key, or the account at the command line")
    act: str = Field(description="create, change, rotate or revoke")
    key_id: str
    changes: list[FieldChange]


class Acts(Reply):
    """GET /v1/admin/acts: a page of the audit log; ask again with `after=next` for more."""

    acts: list[Act]
    next: int | None


class Discrepancy(Reply):
    """A counter of a key that is not the sum of the rows it counts."""

    key_id: str
    counter: str
    counted: int
    summed: int


class Audit(Reply):
    """GET /v1/admin/audit: `[]` is the only good answer."""

    discrepancies: list[Discrepancy]
