"""What a fit on a dataset would need, without a server: queries, images, bytes.

Owns the card that is assumed where no server is asked: the paper's models behind a server whose
owner has changed no limit. A server with smaller limits sells the same vectors as more queries.
"""

from collections.abc import Callable, Iterator
from typing import get_args

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import CardLimits, ModelCard, ReplyDtype
from craft_tuner import method_registry, methods
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.data.dataset import Dataset
from craft_tuner.errors import CraftTunerError
from craft_tuner.plan import Plan, Workload
from craft_tuner.training.foresight import Foreseen, Terms, plan_evaluation, plan_fit
from craft_tuner.training.traffic import Traffic

CARD = ModelCard(
    id="assumed",
    digest="",
    context_width=512,
    context_length=77,
    image_size=224,
    logit_scale=100.0,
    prompt_kinds=["soft", "text"],
    dtype="float32",
    text_path="",
    limits=CardLimits(
        prompts=1024,
        classes=2048,
        images=50_000,
        image_bytes=8 * 2**20,
        offset=1000,
        image_pixels=32_000_000,
        body_bytes=64 * 2**20,
        texts=2**18,
        logits=2**28,
    ),
    reply_dtypes=list(get_args(ReplyDtype)),
)
"""RN50's and ViT-B's shapes, and the limits of a server by default."""


EXAMPLE = Workload(classes=10, shots=160, test_images=1000, test_sets=1)
"""What methods are compared on: 16 shots of ten classes; shots and test are an image set each."""


class Estimate(BaseModel):
    """The plan of a fit and what it moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    traffic: Traffic


UNDECIDED = "soft or text"
"""What a method sends that leaves it to the key."""


def estimate(
    config: FitConfig,
    dataset: Dataset,
    terms: Terms | None = None,
    *,
    bytes_per_s: float | None = None,
    check: Callable[[Foreseen], None] = lambda _: None,
) -> Estimate:
    """What a fit would need; a dataset of test images alone needs its evaluation.

    `terms` are those of a key; None: `CARD`, and a key without limits. `bytes_per_s` is the line's
    rate, if it is known. `check` may refuse the plan.

    Raises:
        AccessDenied: the key may not do it.
        DataError: the shots cannot be sampled, or a picture cannot be read.
        BudgetExhausted: it cannot be paid.
    """
    terms = terms or Terms(CARD)
    found = (plan_fit if dataset.train else plan_evaluation)(config, dataset, terms)
    found = found.for_line(lambda: bytes_per_s)
    check(found)
    return Estimate(plan=found.plan, traffic=found.traffic())


def method_lines() -> Iterator[str]:
    """Each method in a line, with what it asks by default on `EXAMPLE`; asks nothing itself."""
    for name in methods.names():
        try:
            yield _method_line(name)
        except CraftTunerError as error:  # a package that is broken must not hide the others
            yield f"{name}: {error.message}"
        except Exception as error:
            if name in method_registry.BUILT_IN:
                raise
            yield f"{name}: its plan fails: {type(error).__name__}: {error}"


def _method_line(name: str) -> str:
    method = methods.get(name)
    plan = method.plan(build({"method": name}), EXAMPLE)
    if not plan.phases:
        raise ValueError("it has no phases")
    prompts = method.prompt_kind or UNDECIDED
    return f"{name}: {method.summary} (queries: {plan.spending}; {prompts} prompts)"
