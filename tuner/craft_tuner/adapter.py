"""What a fit leaves behind and people deploy: a context and a small head, for one model.

Owns the file format and the arithmetic of applying it, in numpy alone. Must not know torch, HTTP,
run directories or how adapters are made.

    adapter.safetensors   "offsets" (n_ctx, width), "head.<i>.weight" (out, in), "head.<i>.bias"
                          (out,), all float32, and the card as JSON in the metadata ("card")
    adapter.json          the same card, for people and other tools

The first file alone is the adapter. Neither holds a time or a path: the same fit gives the same
bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from craft_shared import tensors
from craft_shared.errors import CraftProtocolError
from craft_shared.messages import ModelCard
from craft_tuner.blackbox import BlackBox, FloatArray, Images, IntArray, Purpose, Texts
from craft_tuner.errors import UsageError, WrongModel

TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "adapter.json"
FORMAT = 1


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
    class_names: tuple[str, ...] = Field(min_length=1)
    context: str
    suffix: str
    config: dict[str, Any] = Field(description="settings of the fit")
    training: dict[str, Any] = Field(description="generations, queries and why the fit stopped")


class Layer(NamedTuple):
    """One affine layer: weight float32 (out, in), bias float32 (out,)."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Adapter:
    """A tuned prompt and a residual head; `refine` applies the head, `logits` both."""

    card: AdapterCard
    offsets: FloatArray | None = None
    """Float32 (n_ctx, width), added to the context's token embeddings; None: the plain text."""
    head: tuple[Layer, ...] = ()
    """Layers with ReLU between them, K -> ... -> K; none: the identity."""

    @classmethod
    def identity(
        cls, texts: Texts, model: ModelCard, *, method: str, config: dict[str, Any]
    ) -> Self:
        """The adapter that changes nothing: the zero-shot model."""
        training = {"generations": 0, "queries": 0, "stopped": "nothing to fit"}
        return cls(describe(texts, model, method=method, config=config, training=training))

    @property
    def texts(self) -> Texts:
        """The words that its prompts are made of."""
        return Texts(self.card.class_names, self.card.context, self.card.suffix)

    def refine(self, logits: FloatArray) -> FloatArray:
        """Refined logits L + net(L), (N, K) -> (N, K); official: main_craft.py:230.

        Raises:
            UsageError: the last axis is not this adapter's number of classes.
        """
        if logits.shape[-1] != len(self.card.class_names):
            raise UsageError(
                f"logits of {logits.shape[-1]} classes do not fit an adapter of "
                f"{len(self.card.class_names)}; ask with the adapter's own class names"
            )
        if not self.head:
            return logits
        units = logits
        for layer in self.head[:-1]:
            units = np.maximum(units @ layer.weight.T + layer.bias, np.float32(0))
        return logits + units @ self.head[-1].weight.T + self.head[-1].bias

    def logits(
        self, box: BlackBox, images: Images, *, purpose: Purpose, step: str
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and refined logits of images, float32 (N, K) each, for one query per image set.

        The raw ones are the prompt's alone (the same fit without its head).
        """
        raw = self._ask(box, images, purpose=purpose, step=step)[0]
        return raw, self.refine(raw)

    def predict(self, logits: FloatArray) -> IntArray:
        """Class indices int64 (N,) of raw logits (N, K)."""
        classes: IntArray = self.refine(logits).argmax(axis=1).astype(np.int64)
        return classes

    def check(self, model: ModelCard) -> None:
        """Make sure that the adapter belongs to the model at hand.

        Raises:
            WrongModel: another checkpoint.
        """
        if model.digest != self.card.digest:
            raise WrongModel(
                f"this adapter was made for {self.card.model} (digest {self.card.digest[:12]}) and "
                f"the server has {model.id} (digest {model.digest[:12]}); use a server of the "
                "first or fit again on this one"
            )

    def to_bytes(self) -> bytes:
        """The content of adapter.safetensors; equal adapters give equal bytes."""
        arrays = {} if self.offsets is None else {"offsets": self.offsets}
        for index, layer in enumerate(self.head):
            arrays[f"head.{index}.weight"] = layer.weight
            arrays[f"head.{index}.bias"] = layer.bias
        return tensors.encode(arrays, {"card": self.card.model_dump_json()})

    @classmethod
    def from_bytes(cls, body: bytes, *, source: str = "adapter") -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            UsageError: the bytes are not an adapter of this format.
        """
        try:
            arrays, metadata = tensors.decode(body)
            card = AdapterCard.model_validate_json(metadata.get("card", ""))
        except (CraftProtocolError, ValidationError) as error:
            raise UsageError(f"{source} is not a craft-tuner adapter: {error}") from error
        if card.format != FORMAT:
            raise UsageError(
                f"{source} has adapter format {card.format}, this version reads {FORMAT}; "
                "install the craft-tuner that wrote it"
            )
        offsets = arrays.pop("offsets", None)
        head = _layers(arrays, len(card.class_names), source=source)
        if offsets is not None and (offsets.ndim != 2 or offsets.shape[1] != card.context_width):
            raise UsageError(
                f"{source}: offsets of shape {list(offsets.shape)}, its card says width "
                f"{card.context_width}; the file is damaged"
            )
        return cls(card, offsets, head)

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
            template = [self.texts.template]
            return box.score_templates(self.texts, template, images, purpose=purpose, step=step)
        return box.score(self.texts, self.offsets[None], images, purpose=purpose, step=step)


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
        class_names=texts.class_names,
        context=texts.context,
        suffix=texts.suffix,
        config=config,
        training=training,
    )


def _layers(arrays: tensors.Tensors, classes: int, *, source: str) -> tuple[Layer, ...]:
    depth = len(arrays) // 2
    wanted = [f"head.{index}.{part}" for index in range(depth) for part in ("bias", "weight")]
    if sorted(arrays) != sorted(wanted):
        raise UsageError(f"{source}: unexpected tensors {sorted(arrays)}; the file is damaged")
    head = tuple(
        Layer(arrays[f"head.{index}.weight"], arrays[f"head.{index}.bias"])
        for index in range(depth)
    )
    outputs = [classes, *(len(layer.bias) for layer in head)]
    shapes = [layer.weight.shape for layer in head]
    if outputs[-1] != classes or shapes != list(zip(outputs[1:], outputs[:-1], strict=True)):
        raise UsageError(f"{source}: a head of {shapes} for {classes} classes; the file is damaged")
    return head
