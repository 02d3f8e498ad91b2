"""What a bank asks: prompts, and the names beside the classes; how many there are room for.

Owns its settings and the words; what is learnt from the answer is in `craft_tuner.methods.bank`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from craft_shared.messages import ModelCard
from craft_tuner.blackbox import BlackBox, FloatArray, Images, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.plan import Workload
from craft_tuner.seeds import Stream, stream
from craft_tuner.texts import anchors, imagenet_templates

COLUMNS = 4096
"""Most numbers per image: P prompts get fewer names each."""


class BankSettings(MethodSettings):
    """What is asked, and how much of it an answer may cost."""

    listed_after: ClassVar[str | None] = "head_epochs"

    bank_prompts: int = Field(
        8, ge=1, le=256, description="bank: most prompts, so queries per image set"
    )
    bank_names: int = Field(
        512,
        ge=0,
        le=4096,
        description="bank, craft_plus: most names asked beside the classes",
    )
    bank_std: float = Field(
        1.0, gt=0, le=1e3, description="bank: standard deviation of its random offsets"
    )
    prompts_per_image: int | None = Field(
        None,
        ge=1,
        le=256,
        description="bank: prompts that an answer may cost, the most informative; none: all",
    )


@dataclass(frozen=True)
class PromptBank:
    """What is asked of every image: offsets or templates, with these names."""

    texts: Texts
    offsets: FloatArray | None
    templates: tuple[str, ...]

    def ask(self, box: BlackBox, images: Images) -> FloatArray:
        """Logits float32 (P, rows, K')."""
        if self.offsets is None:
            return box.score_templates(
                self.texts, self.templates, images, purpose="bank", step="bank"
            )
        return box.score(self.texts, self.offsets, images, purpose="bank", step="bank")

    def only(self, kept: Sequence[int]) -> "PromptBank":
        """The prompts of these indices."""
        offsets = None if self.offsets is None else self.offsets[[*kept]]
        templates = tuple(self.templates[index] for index in kept) if self.templates else ()
        return replace(self, offsets=offsets, templates=templates)


def extra_names(config: FitConfig, work: Workload, prompts: int) -> int:
    """A, the common names asked beside the classes; fewer where the classes are among them."""
    room = min(work.names, COLUMNS // prompts) - work.classes
    return max(0, min(config.of(BankSettings).bank_names, room, len(anchors())))


def worded(
    config: FitConfig, texts: Texts, card: ModelCard, *, prompts: int, names: int
) -> Wording:
    """What a bank asks in words: templates, or soft prompts where the key may send them.

    `names` counts the classes and the names beside them.
    """
    known = set(texts.class_names)
    beside = [name for name in anchors() if name not in known][: names - len(texts.class_names)]
    named = replace(texts, class_names=(*texts.class_names, *beside))
    if prompts > 1 and "soft" in card.prompt_kinds:
        return Wording(named, context_tokens=config.n_ctx)
    others = [text for text in imagenet_templates() if text != texts.template]
    return Wording(named, (texts.template, *others[: prompts - 1]))


def compose(
    box: BlackBox, task: Task, config: FitConfig, *, prompts: int, names: int | None = None
) -> PromptBank:
    """The plain prompt and so many others that a bank asks with, and the names it asks of.

    `names` counts the classes and the names beside them; None: as many as one may ask about.
    """
    card, classes = box.card, len(task.texts.class_names)
    if names is None:
        names = classes + extra_names(config, Workload.of(task, card=card), prompts)
    wording = worded(config, task.texts, card, prompts=prompts, names=names)
    if wording.templates:
        return PromptBank(wording.texts, None, wording.templates)
    draw = stream(config.seed, Stream.BANK)
    std = config.of(BankSettings).bank_std
    offsets = draw.normal(0, std, (prompts, config.n_ctx, card.context_width))
    offsets[0] = 0
    return PromptBank(wording.texts, offsets.astype(np.float32), ())
