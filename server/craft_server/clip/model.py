"""The black box that clients pay for: a CLIP behind the interface of craft_server.blackbox."""

from collections.abc import Sequence
from typing import cast

import torch
from PIL.Image import Image
from torch import Tensor

from craft_server.blackbox import Features, FloatArray, Pixels, Prompts
from craft_server.clip.text import TextEncoder, TextPlan
from craft_server.clip.vision import ImageEncoder
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsRequest, ModelCard, SoftPrompts


class ClipBlackBox:
    """Prompts and images in, `exp(logit_scale) * cosine (+ bias)` out.

    Args:
        card: what clients may know.
        text: the text encoder.
        images: the image encoder.
        bias: the checkpoint's logit bias (SigLIP), 0 for CLIP.
    """

    def __init__(
        self, card: ModelCard, text: TextEncoder, images: ImageEncoder, *, bias: float = 0.0
    ) -> None:
        self.card = card
        self._text = text
        self._images = images
        self._bias = bias

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Tokenise and check; see `craft_server.blackbox.BlackBox.prepare`."""
        prompts, names = request.prompts, tuple(request.class_names)
        if prompts.kind not in self.card.prompt_kinds:
            detail = f"{prompts.kind} prompts are switched off; allowed: {self.card.prompt_kinds}"
            raise Refusal(Code.PROMPT_KIND_DENIED, detail, param="prompts.kind")
        if isinstance(prompts, SoftPrompts):
            shifts = torch.tensor(offsets, dtype=torch.float32)
            plan = self._text.plan_soft(prompts.context, names, prompts.suffix, shifts)
        else:
            plan = self._text.plan_templates(prompts.templates, names)
        return Prompts(count=plan.prompts, class_names=names, plan=plan)

    @property
    def image_key(self) -> str:
        """Which encoder made a record; see `craft_server.blackbox.BlackBox.image_key`."""
        return self._images.key

    def preprocess(self, image: Image) -> Pixels:
        """open_clip's own preprocessing: float32 (3, side, side) in the host's memory."""
        return Pixels(self._images.preprocess(image))

    def encode_images(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """One record per image; see `craft_server.blackbox.BlackBox.encode_images`."""
        return self._images.encode(cast("Sequence[Tensor]", pixels))

    def load_features(self, records: Sequence[bytes]) -> Features:
        """One float32 matrix (N, D) on the device."""
        return Features(self._images.load(records))

    @torch.inference_mode()
    def score(self, prompts: Prompts, features: Features) -> FloatArray:
        """Logits float32 (P, N, K): scale * image (N, D) @ text (P, D, K)."""
        plan = cast("TextPlan", prompts.plan)
        images = cast("Tensor", features)  # (N, D)
        texts = self._text.encode(plan)  # (P, K, D)
        logits = self.card.logit_scale * (images @ texts.transpose(1, 2)) + self._bias
        return cast("FloatArray", logits.cpu().numpy())
