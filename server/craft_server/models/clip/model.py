"""The black box that clients pay for: a CLIP behind the engine's port."""

from collections.abc import Sequence
from typing import cast

import torch
from PIL.Image import Image
from torch import Tensor

from craft_server.engine.blackbox import (
    Awaited,
    Features,
    FloatArray,
    Piece,
    Pixels,
    Prompts,
    Steps,
    Texts,
    at_once,
)
from craft_server.engine.texts import Counted
from craft_server.models.clip.device import compute_here, stay_small, to_host
from craft_server.models.clip.text import TextEncoder, TextPlan
from craft_server.models.clip.vision import ImageEncoder
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsRequest, ModelCard, SoftPrompts, TextPrompts


class ClipBlackBox:
    """Prompts and images in, `exp(logit_scale) * cosine (+ bias)` out.

    Args:
        card: what clients may know.
        text: the text encoder.
        images: the image encoder.
        bias: the checkpoint's logit bias (SigLIP), 0 for CLIP.
        threads: CPU threads of the device thread.
    """

    def __init__(
        self,
        card: ModelCard,
        text: TextEncoder,
        images: ImageEncoder,
        *,
        bias: float = 0.0,
        threads: int = 1,
    ) -> None:
        self.card = card
        self._text = text
        self._images = images
        self._bias = bias
        self._threads = threads

    def start(self) -> None:
        """Make the calling thread the device's, and the device the thread's."""
        compute_here(self._threads)
        if self._text.device.type == "cuda":  # what takes no device, such as an event, takes this
            torch.cuda.set_device(self._text.device)

    def recover(self) -> None:
        """Free what torch keeps of the device's memory, in pieces that may not fit the next."""
        if self._text.device.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Tokenise and check at once; see `craft_server.engine.blackbox.BlackBox.prepare`."""
        return at_once(self.prepare_in_steps(request, offsets))

    def prepare_in_steps(
        self, request: LogitsRequest, offsets: FloatArray | None
    ) -> Steps[Prompts]:
        """Tokenise and check, text by text; see `BlackBox.prepare_in_steps`."""
        prompts, names = request.prompts, tuple(request.class_names)
        self._check_kind(prompts)
        if isinstance(prompts, SoftPrompts):
            shifts = torch.tensor(offsets, dtype=torch.float32)
            planning = self._text.soft_in_steps(prompts.context, names, prompts.suffix, shifts)
        else:
            planning = self._text.templates_in_steps(prompts.templates, names)
        plan = yield from planning
        return Prompts(
            count=plan.prompts,
            class_names=names,
            plan=plan,
            pieces=self._text.pieces(plan),
            tokens=self._text.tokens_per_prompt(plan),
            group=plan.group,
        )

    def count_in_steps(
        self, prompts: SoftPrompts | TextPrompts, names: Sequence[str]
    ) -> Steps[Counted]:
        """Text by text; see `craft_server.engine.blackbox.BlackBox.count_in_steps`."""
        self._check_kind(prompts)
        return (yield from self._text.count_in_steps(prompts, names))

    def _check_kind(self, prompts: SoftPrompts | TextPrompts) -> None:
        if prompts.kind not in self.card.prompt_kinds:
            detail = f"{prompts.kind} prompts are switched off; allowed: {self.card.prompt_kinds}"
            raise Refusal(Code.PROMPT_KIND_DENIED, detail, param="prompts.kind")

    @property
    def image_key(self) -> str:
        """Which encoder made a record; see `craft_server.engine.blackbox.BlackBox.image_key`."""
        return self._images.key

    def preprocess(self, image: Image) -> Pixels:
        """open_clip's own preprocessing: float32 (3, side, side) in the host's memory."""
        stay_small()
        return Pixels(self._images.preprocess(image))

    def encode_images(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """One record per image; see `craft_server.engine.blackbox.BlackBox.encode_images`."""
        return self._images.encode(cast("Sequence[Tensor]", pixels))

    def load_features(self, records: Sequence[bytes]) -> Features:
        """One float32 matrix (N, D) on the device."""
        return Features(self._images.load(records))

    @property
    def tokens_per_pass(self) -> int:
        """How many tokens one pass of the text tower takes."""
        return self._text.tokens_per_pass

    @property
    def asynchronous(self) -> bool:
        """CUDA computes beside the host."""
        return self._text.device.type == "cuda"

    def encode_texts(self, pieces: Sequence[Piece]) -> list[Texts]:
        """Normalised text features, float32 (p, K, D) for each piece, from one pass."""
        plans = [cast("TextPlan", piece.prompts.plan).part(piece.run) for piece in pieces]
        features = self._text.encode_piece(plans[0].with_others(plans[1:]))
        sizes = [plan.prompts for plan in plans]
        return cast("list[Texts]", list(torch.split(features, sizes)))

    @torch.inference_mode()
    def logits(self, texts: Texts, features: Features, *, prompts: slice, images: slice) -> Awaited:
        """Scale * image (n, D) @ text (p, D, K) + bias, float32 (p, n, K)."""
        rows = cast("Tensor", features)[images]  # (n, D)
        words = cast("Tensor", texts)[prompts]  # (p, K, D)
        logits = self.card.logit_scale * (rows @ words.transpose(1, 2)) + self._bias
        return to_host(logits)
