"""Every message of the protocol, as pydantic models.

Requests refuse unknown fields (a misspelt option must not be silently ignored); replies ignore
them (a newer server may say more). Sizes that a server chooses are not checked here: they stand on
the model card. The two tensor bodies of POST /v1/logits are in `craft_shared.wire`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from craft_shared.limits import (
    MAX_CLASS_NAME_CHARS,
    MAX_IDS_PER_CALL,
    MAX_TAG_CHARS,
    MAX_TEMPLATE_CHARS,
)

ImageId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of an image file's bytes, in hex."""

ImageSetId = Annotated[str, StringConstraints(pattern=r"^set_[0-9a-f]{32}$")]

ClassName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CLASS_NAME_CHARS)]
Template = Annotated[str, StringConstraints(min_length=2, max_length=MAX_TEMPLATE_CHARS)]
Tag = Annotated[str, StringConstraints(max_length=MAX_TAG_CHARS, pattern=r"^[A-Za-z0-9_.:/-]*$")]

Each = TypeVar("Each")
Many = Annotated[list[Each], Field(fail_fast=True)]
"""A list of which only the first fault is reported: a million would take gigabytes to describe."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1, le=10**15)]
PromptKind = Literal["soft", "text"]
ReplyDtype = Literal["float32", "float16", "int16"]
OutputKind = Literal["logits", "rounded", "log_probabilities", "top_k", "label"]


class Request(BaseModel):
    """Base of what clients send: frozen, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """Base of what servers send: frozen, unknown fields ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# --- what a query costs -------------------------------------------------------------------------


class Counters(Reply):
    """The counters of one call or of a period, exact integers; all but `calls` can be limits.

    One query is one prompt (one context for all K class names) scored on one image set.
    """

    queries: Count = Field(description="prompts: the paper's unit")
    calls: Count = Field(description="HTTP requests that were settled")
    logit_vectors: Count = Field(description="prompts x images: rows of K logits")
    texts: Count = Field(
        description="prompts x classes: the directions in which images were asked about"
    )
    logits: Count = Field(0, description="numbers told: of every row as many as the output tells")


class Budget(Reply):
    """One limit of a key and where it stands: `remaining == limit - used - held`."""

    limit: Count
    used: Count
    held: Count
    remaining: Count


class Budgets(Reply):
    """The limits of a key, by counter; None where the key has no such limit."""

    queries: Budget
    logit_vectors: Budget | None = None
    texts: Budget | None = None
    logits: Budget | None = None


# --- the model ----------------------------------------------------------------------------------


class CardLimits(Reply):
    """The largest single request that this server takes."""

    prompts: int = Field(description="prompts in one request")
    classes: int = Field(description="class names in one request")
    images: int = Field(description="images in one image set")
    image_bytes: int = Field(description="bytes of one image file")
    image_pixels: int = Field(description="width x height of one image")
    body_bytes: int = Field(description="bytes of one request body")
    texts: int = Field(description="prompts x classes in one request")
    logits: int = Field(description="prompts x images x classes in one request")
    offset: int | None = Field(None, description="largest magnitude of an offset")
    min_classes: int = Field(1, description="fewest class names in one request")


class ModelCard(Reply):
    """What a server says of a model; no number in it depends on weights but the logit scale."""

    id: str = Field(description='architecture and checkpoint, as in "RN50::openai"')
    digest: str = Field(description="sha256 of the checkpoint: the model an adapter belongs to")
    context_width: int = Field(description="width of a token embedding: last axis of offsets")
    context_length: int = Field(description="tokens in a prompt, start and end included")
    image_size: int = Field(description="side in pixels that images are resized and cropped to")
    logit_scale: float = Field(description="exp(logit_scale), the factor of the cosine")
    prompt_kinds: Many[PromptKind]
    output: OutputKind = Field("logits", description="what is disclosed of the logits to this key")
    class_names: list[str] | None = Field(
        None, description="the only names that this key may ask about, all of them in any order"
    )
    dtype: str = Field(description="arithmetic of the text and image towers")
    text_path: str = Field(description="how texts are encoded: exact paths only")
    limits: CardLimits
    reply_dtypes: Many[Tag] = Field(
        ["float32", "float16"],
        max_length=100,
        description="what `dtype` of a request for logits may be",
    )


class ModelList(Reply):
    """GET /v1/models."""

    models: Many[ModelCard]


# --- images -------------------------------------------------------------------------------------


class Manifest(Request):
    """POST /v1/images/missing: which of these are not here yet?"""

    ids: Many[ImageId] = Field(min_length=1, max_length=MAX_IDS_PER_CALL)


class ManifestReply(Reply):
    """The ids of the manifest that this owner has not uploaded, in the order asked."""

    missing: Many[ImageId]


class StoredImage(Reply):
    """One uploaded image."""

    id: ImageId
    bytes: int
    width: int
    height: int
    new: bool = Field(description="false if this owner had uploaded the same bytes before")


class UploadReply(Reply):
    """POST /v1/images: one entry per file, in the order sent."""

    images: Many[StoredImage]


class ImageSetRequest(Request):
    """POST /v1/image-sets: an ordered list of uploaded images. The same list gives the same id."""

    images: Many[ImageId] = Field(min_length=1, max_length=MAX_IDS_PER_CALL)
    name: Tag = ""


class ImageSet(Reply):
    """An image set as its owner sees it; row n of every logits reply is its n-th image."""

    id: ImageSetId
    name: str
    images: int = Field(description="how many images the set has")


class ImageSets(Reply):
    """GET /v1/image-sets: a page, in the order of ids; ask again with `after=next` for more."""

    sets: list[ImageSet]
    next: ImageSetId | None


# --- logits -------------------------------------------------------------------------------------


def _kind_first(schema: dict[str, Any]) -> None:
    """The wire needs the kind to distinguish prompts, though code that builds them does not."""
    schema["required"] = ["kind", *schema["required"]]


class SoftPrompts(Request):
    """P prompts that differ from a text by an offset to its context's token embeddings.

    The text of class k is `"{context} {class_name}{suffix}"`. The context must tokenise to n_ctx
    tokens; prompt p adds `offsets[p]`, float32 of shape (n_ctx, context_width), to their
    embeddings. In a tensor body the offsets are the tensor `offsets` and this field is absent.
    """

    model_config = ConfigDict(json_schema_extra=_kind_first)

    kind: Literal["soft"] = "soft"
    context: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE_CHARS)]
    suffix: Annotated[str, StringConstraints(max_length=MAX_TEMPLATE_CHARS)] = "."
    offsets: Many[Many[Many[float]]] | None = None


class TextPrompts(Request):
    """P prompts as templates; each contains `{}` exactly once, for the class name."""

    model_config = ConfigDict(json_schema_extra=_kind_first)

    kind: Literal["text"] = "text"
    templates: Many[Template] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_gap(self) -> "TextPrompts":
        for index, template in enumerate(self.templates):
            if template.count("{}") != 1:
                raise ValueError(f"templates[{index}] {template!r} must contain {{}} exactly once")
        return self


class LogitsRequest(Request):
    """POST /v1/logits: score P prompts of K classes on the N images of a set. Costs P queries."""

    model: str
    image_set: ImageSetId
    class_names: Many[ClassName] = Field(min_length=1)
    prompts: Annotated[SoftPrompts | TextPrompts, Field(discriminator="kind")]
    dtype: ReplyDtype = Field(
        "float32",
        description="of the reply's tensor; int16 has a scale and an offset per row, and in JSON "
        "is float32",
    )
    tag: Tag = Field(default="", description="what the call is for; copied to the ledger")
    run: Tag = Field(default="", description="which run it belongs to; copied to the ledger")


class LogitsReply(Reply):
    """What a logits call answers. `logits` has shape (prompts, images, classes).

    In a tensor body the logits are the tensor `logits` and the field is absent.
    """

    model: str
    digest: str
    image_set: ImageSetId
    cost: Counters
    budgets: Budgets
    replayed: bool = Field(description="true if this was bought before and is sent again, free")
    logits: list[list[list[float | None]]] | None = Field(
        None, description="null where the key's policy discloses nothing of a class"
    )


class TextsRequest(Request):
    """POST /v1/texts/check: would a request for logits of these texts be refused for any? Free.

    Soft prompts are checked by their words: without offsets.
    """

    model: str
    class_names: Many[ClassName] = Field(min_length=1)
    prompts: Annotated[SoftPrompts | TextPrompts, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _words_alone(self) -> "TextsRequest":
        if isinstance(self.prompts, SoftPrompts) and self.prompts.offsets is not None:
            raise ValueError("texts are checked without prompts.offsets; leave them out")
        return self


class RefusedText(Reply):
    """One text for which a request for logits is refused, in the same words."""

    prompt: Count = Field(description="its template in the list; 0 for soft prompts")
    class_name: Count = Field(description="its class name in the list")
    code: str
    detail: str


class TextsReply(Reply):
    """How long texts are to the model, and which it refuses."""

    model: str
    longest: Count = Field(
        description="tokens of the longest text, start and end included; of one that is far too "
        "long, the fewest that it can have"
    )
    most: Count = Field(description="tokens that fit: the card's context_length")
    context: Count | None = Field(
        None, description="tokens of a soft prompt's context: offsets need as many rows"
    )
    refused: Many[RefusedText] = Field(
        description="the first texts that are refused, at most 100; none: all are taken"
    )


# --- keys and usage -----------------------------------------------------------------------------


class Output(Reply):
    """What is disclosed to a key of each row of K logits; every kind has the same shape.

    `logits`: as they are. `rounded`: to the nearest multiple of `step`. `log_probabilities`: of a
    softmax over the classes. `top_k`: those of the `k` best classes alone. `label`: 0, the
    logarithm of 1, for the best class alone. A class of which nothing is disclosed has -inf,
    which is null in JSON.
    """

    kind: OutputKind = "logits"
    step: float | None = Field(None, gt=0, allow_inf_nan=False, description="of `rounded`")
    k: Positive | None = Field(None, description="of `top_k`")

    @property
    def min_classes(self) -> int:
        """Fewest different class names of which this withholds anything, where it is to withhold.

        The `k` best of `k` classes are all of them. A label of one class says nothing at all, so it
        needs no second.
        """
        return 1 if self.k is None else self.k + 1

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "Output":
        for name, kind in (("step", "rounded"), ("k", "top_k")):
            if (getattr(self, name) is not None) != (self.kind == kind):
                raise ValueError(f"`{name}` belongs to the output {kind!r}, and {kind!r} needs it")
        return self


def different_names(names: Iterable[str]) -> int:
    """How many class names there are for a model that hears neither case nor spaces."""
    return len({" ".join(name.lower().split()) for name in names})


class Policy(Reply):
    """What a key may do beside its scopes and budgets; None is as much as the server allows."""

    models: Annotated[list[str], Field(max_length=100)] | None = Field(
        None, description="ids of the models it may use"
    )
    prompt_kinds: list[PromptKind] | None = Field(None, description="kinds of prompts it may send")
    output: Output = Field(Output(), description="what is disclosed to it of the logits")
    class_names: Annotated[list[ClassName], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="the only class names it may ask about: all of them, in any order"
    )
    max_classes: Positive | None = Field(None, description="class names in one request")
    max_images: Positive | None = Field(None, description="images in a set that it asks about")
    max_concurrent: Positive | None = Field(None, description="metered requests at a time")
    requests_per_minute: Positive | None = Field(None, description="calls of any kind")
    image_bytes: Count | None = Field(
        None, le=10**15, description="bytes of images that its owner may keep"
    )


class KeyInfo(Reply):
    """GET /v1/key: what this key may do and what it has left."""

    id: str
    owner: str
    scopes: Many[str]
    budgets: Budgets
    policy: Policy = Policy()
    created_at: datetime
    expires_at: datetime | None = None


class UsageBucket(Reply):
    """Settled usage within one bucket of time (UTC); `start` is None for the total.

    Where usage was asked for by tag, run or image set, a bucket is what one of them has.
    """

    start: datetime | None
    tag: str | None = None
    run: str | None = None
    image_set: str | None = None
    counters: Counters


class UsageReply(Reply):
    """GET /v1/usage."""

    bucket: Literal["total", "hour", "day"]
    by: Literal["tag", "run", "image_set"] | None = None
    buckets: Many[UsageBucket]


class UsageEvent(Reply):
    """One line of the ledger: one settled call."""

    id: int
    at: datetime
    request_id: str
    model: str
    image_set: str
    prompts: int
    images: int
    classes: int
    queries: int
    logit_vectors: int
    texts: int
    logits: int = 0
    tag: str
    run: str = ""
    seconds: float


class UsageEvents(Reply):
    """GET /v1/usage/events: a page of the ledger; ask again with `after=next` for more."""

    events: Many[UsageEvent]
    next: int | None


class Health(Reply):
    """GET /livez and /readyz."""

    status: Literal["ok"]
