"""What a fit leaves behind and people deploy: prompts and a small head, for one model.

Owns the file format and what an adapter asks of a black box; the head's arithmetic is
`craft_tuner.adapter.head`.

    adapter.safetensors   "offsets" (P, n_ctx, width), "head.<i>.weight" (out, in), "head.<i>.bias"
                          (out,), "head.centre" (P * K',), all float32, and the card as JSON in the
                          metadata ("card")
    adapter.json          the same card, for people and other tools

The first file alone is the adapter. Neither holds a time or a path: the same fit gives the same
bytes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from craft_shared import tensors
from craft_shared.errors import CraftProtocolError
from craft_shared.messages import ModelCard, OutputKind
from craft_tuner.adapter.head import DeployedHead, Layer, LeverageGate
from craft_tuner.blackbox import BlackBox, FloatArray, Images, IntArray, Purpose, Texts, Wording
from craft_tuner.errors import UsageError, WrongModel
from craft_tuner.files import handed_on

__all__ = ["CARD_FILE", "FORMAT", "TENSORS_FILE", "Adapter", "AdapterCard", "Layer", "describe"]

TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "adapter.json"
FORMAT = 2
"""Format 1 had one prompt, offsets (n_ctx, width) and class names alone; it still loads."""

ALIKE = {"logits", "rounded"}
"""Outputs of which a head that was fitted to one reads the other."""


class AdapterCard(BaseModel):
    """Everything about an adapter that is not a tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    method: str = Field(description="method that made it")
    model: str = Field(description='model it belongs to, as in "RN50::openai"')
    digest: str = Field(description="sha256 of that model's checkpoint")
    context_width: int = Field(description="width of the model's token embeddings")
    image_size: int = Field(description="side in pixels that the server resizes images to")
    logit_scale: float = Field(description="factor of the cosine in the model's logits")
    output: OutputKind | None = Field(
        None, description="what was disclosed of logits to the key of the fit; none: not known"
    )
    class_names: tuple[str, ...] = Field(min_length=1)
    context: str
    suffix: str
    templates: tuple[str, ...] = Field(
        (), description="text prompts, where they are neither soft nor context and suffix alone"
    )
    asked_names: tuple[str, ...] | None = Field(
        None, description="names that prompts are asked with; none: the class names"
    )
    relu: bool = Field(default=True, description="ReLU between the head's layers")
    residual: float = Field(1.0, description="weight in the result of the classes' own logits")
    config: dict[str, Any] = Field(description="settings of the fit")
    training: dict[str, Any] = Field(description="generations, queries and why the fit stopped")


@dataclass(frozen=True)
class Adapter:
    """Prompts and a head for one model; `refine` applies the head, `logits` asks for both."""

    card: AdapterCard
    offsets: FloatArray | None = None
    """Float32 (P, n_ctx, width), added to the context's token embeddings; None: text prompts."""
    head: tuple[Layer, ...] = ()
    """Layers, P * K' -> ... -> K; none: the identity."""
    centre: FloatArray | None = None
    """Float32 (P * K',), subtracted from logits before the first layer; None: 0."""
    gate: LeverageGate | None = None
    """How far from the shots the head is followed; None: everywhere."""

    @classmethod
    def identity(
        cls, texts: Texts, model: ModelCard, *, method: str, config: dict[str, Any]
    ) -> Self:
        """The adapter that changes nothing: the zero-shot model."""
        training = {"generations": 0, "queries": 0, "stopped": "nothing to fit"}
        return cls(describe(texts, model, method=method, config=config, training=training))

    @property
    def texts(self) -> Texts:
        """Its classes and the words around them."""
        return Texts(self.card.class_names, self.card.context, self.card.suffix)

    @property
    def asked(self) -> Texts:
        """The names that its prompts are asked with (K' of them) and the words around them."""
        names = self.card.asked_names or self.card.class_names
        return Texts(names, self.card.context, self.card.suffix)

    @property
    def wording(self) -> Wording:
        """All that it asks, in words."""
        if self.offsets is None:
            return Wording(self.asked, self.templates)
        return Wording(self.asked, context_tokens=self.offsets.shape[1])

    @property
    def templates(self) -> tuple[str, ...]:
        """Its prompts as text, where they are not soft."""
        return self.card.templates or (self.texts.template,)

    @property
    def prompts_per_image(self) -> int:
        """P, what an answer costs in queries for each image set."""
        return len(self.templates) if self.offsets is None else len(self.offsets)

    def refine(self, logits: FloatArray) -> FloatArray:
        """Scores float32 (N, K) of logits (P, N, K'), or (N, K') of a single prompt.

        CraFT's are L + net(L), main_craft.py:230.

        Raises:
            UsageError: the logits are not this adapter's P prompts of K' names.
        """
        asked = logits if logits.ndim > 2 else logits[None]
        sizes = (asked.shape[0], asked.shape[-1])
        mine = (self.prompts_per_image, len(self.asked.class_names))
        if sizes != mine:
            raise UsageError(
                f"logits of {sizes[0]} prompts and {sizes[1]} classes do not fit an adapter of "
                f"{mine[0]} and {mine[1]}; ask with the adapter's own prompts and class names"
            )
        return self._deployed(asked, self.base(asked))

    def base(self, logits: FloatArray) -> FloatArray | None:
        """The classes' own logits, float32 (N, K): mean over the prompts of logits (P, N, K').

        None where the prompts are asked with other names alone.
        """
        columns = self._columns
        if columns is None:
            return None
        own = logits[..., columns]
        mean: FloatArray = own[0] if len(own) == 1 else own.mean(axis=0, dtype=np.float32)
        return mean

    def logits(
        self, box: BlackBox, images: Images, *, purpose: Purpose, step: str
    ) -> tuple[FloatArray | None, FloatArray]:
        """Raw and refined logits of images, float32 (N, K) each, for P queries per image set.

        The raw ones are the prompts' alone (the same fit without its head), None where they say
        nothing of the classes.
        """
        asked = self._ask(box, images, purpose=purpose, step=step)
        return self.base(asked), self.refine(asked)

    def predict(self, logits: FloatArray) -> IntArray:
        """Class indices int64 (N,) of logits as `refine` takes them."""
        classes: IntArray = self.refine(logits).argmax(axis=1).astype(np.int64)
        return classes

    @property
    def _deployed(self) -> DeployedHead:
        return DeployedHead(self.head, self.centre, self.card.relu, self.card.residual, self.gate)

    @cached_property
    def _columns(self) -> slice | list[int] | None:
        """Where the class names stand among the asked names."""
        if self.card.asked_names is None:
            return slice(None)
        places = {name: index for index, name in enumerate(self.card.asked_names)}
        found = [places.get(name) for name in self.card.class_names]
        return None if None in found else [place for place in found if place is not None]

    def check(self, model: ModelCard) -> None:
        """Make sure that the adapter belongs to the model at hand, and reads what it discloses.

        Raises:
            WrongModel: another checkpoint, or logits disclosed otherwise than to the fit.
        """
        if model.digest != self.card.digest:
            raise WrongModel(
                f"this adapter was made for {self.card.model} (digest {self.card.digest[:12]}) and "
                f"the server has {model.id} (digest {model.digest[:12]}); use a server of the "
                "first or fit again on this one"
            )
        if not self._reads(model.output):
            raise WrongModel(
                f"this adapter's head was fitted to {self.card.output} and the server discloses "
                f"{model.output} to this key; use a key that gets the first or fit again with "
                "this one"
            )

    def _reads(self, output: OutputKind) -> bool:
        """Whether the head makes sense of such an output; without one, any will do."""
        mine = self.card.output
        known = mine is not None and bool(self.head)
        return not known or mine == output or {mine, output} <= ALIKE

    def to_bytes(self) -> bytes:
        """The content of adapter.safetensors; equal adapters give equal bytes."""
        arrays = {} if self.offsets is None else {"offsets": self.offsets}
        arrays |= self._deployed.tensors()
        return tensors.encode(arrays, {"card": self.card.model_dump_json()})

    @classmethod
    def from_bytes(cls, body: bytes, *, source: str = "adapter") -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            UsageError: the bytes are not an adapter of this format.
        """
        arrays, card = _decode(body, source)
        offsets = _take_offsets(arrays, card, source)
        empty = cls(card.model_copy(update={"format": FORMAT}), offsets)
        deployed = DeployedHead.of(
            arrays,
            relu=card.relu,
            residual=card.residual,
            widths=(
                empty.prompts_per_image * len(empty.asked.class_names),
                len(card.class_names),
            ),
            source=source,
        )
        return replace(empty, head=deployed.layers, centre=deployed.centre, gate=deployed.gate)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an adapter from its file, or from the directory that holds `adapter.safetensors`.

        Raises:
            UsageError: no such file, or not an adapter.
        """
        file = path / TENSORS_FILE if path.is_dir() else path
        try:
            body = file.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read the adapter {file}: {error.strerror}; give an adapter.safetensors "
                "or a run directory that has one"
            ) from error
        return cls.from_bytes(body, source=str(file))

    def _ask(self, box: BlackBox, images: Images, *, purpose: Purpose, step: str) -> FloatArray:
        if self.offsets is None:
            return box.score_templates(
                self.asked, self.templates, images, purpose=purpose, step=step
            )
        return box.score(self.asked, self.offsets, images, purpose=purpose, step=step)


def _decode(body: bytes, source: str) -> tuple[tensors.Tensors, AdapterCard]:
    try:
        arrays, metadata = tensors.decode(body)
        card = AdapterCard.model_validate_json(metadata.get("card", ""))
    except (CraftProtocolError, ValidationError) as error:
        raise UsageError(f"{source} is not a craft-tuner adapter: {error}") from error
    if card.format not in (1, FORMAT):
        raise UsageError(
            f"{source} has adapter format {card.format}, this version reads up to {FORMAT}; "
            "install the craft-tuner that wrote it"
        )
    return arrays, card


def _take_offsets(arrays: tensors.Tensors, card: AdapterCard, source: str) -> FloatArray | None:
    """Remove the offsets from the arrays; float32 (P, n_ctx, width), None: text prompts."""
    offsets = arrays.pop("offsets", None)
    if offsets is not None and card.format == 1:
        offsets = offsets[None]
    if offsets is not None and (offsets.ndim != 3 or offsets.shape[2] != card.context_width):
        raise UsageError(
            f"{source}: offsets of shape {list(offsets.shape)}, its card says width "
            f"{card.context_width}; the file is damaged"
        )
    return offsets


def describe(
    texts: Texts,
    model: ModelCard,
    *,
    method: str,
    config: dict[str, Any],
    training: dict[str, Any],
) -> AdapterCard:
    """The card of an adapter for `model`."""
    return AdapterCard(
        method=method,
        model=model.id,
        digest=model.digest,
        context_width=model.context_width,
        image_size=model.image_size,
        logit_scale=model.logit_scale,
        output=model.output,
        class_names=texts.class_names,
        context=texts.context,
        suffix=texts.suffix,
        config=handed_on(config),
        training=training,
    )
