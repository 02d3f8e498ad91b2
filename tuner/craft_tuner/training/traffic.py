"""What a run moves over the line, and how long that takes: shown before it begins.

Calls and logits are counted; images are weighed by a sample, and those that the server has already
are not sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from craft_shared.messages import Counters, ModelCard, PromptKind, ReplyDtype
from craft_shared.wire import logits_bytes
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.plan import Plan

_HEADER_BYTES = 700
"""About what a request's and a reply's head and message take."""

_TEMPLATE_BYTES = 64
"""About what a text template takes in a message."""

_NAME_BYTES = 340
"""What a picture takes beside its bytes: its id in a manifest, an upload and a set."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of a run: images and prompts there, logits back, in at least so many requests."""

    pictures: int
    picture_bytes: int
    requests: int
    prompt_bytes: int
    logit_bytes: int
    dtype: str
    int16_bytes: int = 0
    """What the logits would take as int16 rows; 0 where the server has none."""


@dataclass(frozen=True)
class Link:
    """What is known of the way to the server; the rate only once something has been sent."""

    round_trip_s: float
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Load:
    """So many pictures, and about their bytes."""

    count: int
    bytes: int


def foresee(
    plan: Plan,
    config: FitConfig,
    card: ModelCard,
    *,
    class_names: Sequence[str],
    pictures: Load,
    prompt_kind: PromptKind = "soft",
) -> Traffic:
    """The traffic of a plan.

    Args:
        plan: what is bought.
        config: says how logits travel.
        card: of the model.
        class_names: K names; other names that are asked about are taken to be as long.
        pictures: what is uploaded.
        prompt_kind: offsets are far larger than texts.
    """
    total = plan.total
    prompt = config.n_ctx * card.context_width * 4 if prompt_kind == "soft" else _TEMPLATE_BYTES
    name = sum(len(each.encode()) + 3 for each in class_names) / len(class_names)
    words = sum(phase.cost.calls * _names(phase.cost) for phase in plan.phases)
    dtype = plan.dtype_of(config)
    return Traffic(
        pictures=pictures.count,
        picture_bytes=pictures.bytes + pictures.count * _NAME_BYTES,
        requests=total.calls,
        prompt_bytes=plan.fit.queries * prompt + round(words * name) + total.calls * _HEADER_BYTES,
        logit_bytes=reply_bytes(plan, dtype),
        dtype=dtype,
        int16_bytes=reply_bytes(plan, "int16") if "int16" in card.reply_dtypes else 0,
    )


def reply_bytes(plan: Plan, dtype: ReplyDtype) -> int:
    """Bytes of all replies of a plan, their heads included."""
    heads = plan.total.calls * _HEADER_BYTES
    return heads + sum(
        logits_bytes(dtype, rows=phase.cost.logit_vectors, classes=_names(phase.cost))
        for phase in plan.phases
    )


def _names(cost: Counters) -> int:
    """Names that each request of a phase asks about; a reply has a number for each."""
    return cost.texts // max(1, cost.queries)
