"""A deterministic black box in numpy, for tests and for measuring the server without a model.

It has what matters of a CLIP: cosine logits with a scale, class names that matter, and a smooth
dependence on the offsets. `craft-server serve --model stub` starts it; it imports no torch.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL.Image import Image

from craft_server.blackbox import Features, FloatArray, Pixels, Prompts
from craft_shared.errors import Code, Refusal
from craft_shared.messages import CardLimits, LogitsRequest, ModelCard, SoftPrompts

WIDTH = 16
N_CTX = 4
LENGTH = 77
EMBED = 24
SIDE = 8
SCALE = 100.0


class StubBlackBox:
    """Logits from hashes of words and a coarse thumbnail of the image."""

    def __init__(self, limits: CardLimits, *, seconds_per_query: float = 0.0) -> None:
        """Spend `seconds_per_query` asleep per prompt, as a device that is the bottleneck would."""
        self._seconds_per_query = seconds_per_query
        self.card = ModelCard(
            id="stub::0",
            digest=hashlib.sha256(b"stub::0").hexdigest(),
            context_width=WIDTH,
            context_length=LENGTH,
            image_size=SIDE,
            logit_scale=SCALE,
            prompt_kinds=["soft", "text"],
            dtype="float32",
            text_path="hash",
            limits=limits,
        )
        self.image_key = hashlib.sha256(b"stub::0 records 1").hexdigest()
        self._mixing = _noise("offsets", (N_CTX * WIDTH, EMBED)) / np.sqrt(N_CTX * WIDTH)
        self._eye = _noise("image", (SIDE * SIDE * 3, EMBED)) / np.sqrt(SIDE * SIDE * 3)

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Count words as tokens; a soft prompt's context has four of them."""
        names = tuple(request.class_names)
        if isinstance(request.prompts, SoftPrompts):
            templates = [f"{request.prompts.context} {{}}{request.prompts.suffix}"]
            count = _check_offsets(request.prompts.context, offsets)
        else:
            templates = request.prompts.templates
            count = len(templates)
        texts = [[template.replace("{}", name) for name in names] for template in templates]
        longest = max((len(text.split()) + 2, text) for row in texts for text in row)
        if longest[0] > LENGTH:
            detail = f"{longest[1][:60]!r} takes {longest[0]} tokens, at most {LENGTH} fit"
            raise Refusal(Code.TOO_MANY_TOKENS, detail, param="prompts")
        return Prompts(count=count, class_names=names, plan=(texts, offsets))

    def preprocess(self, image: Image) -> Pixels:
        """A thumbnail's values, float32 (SIDE * SIDE * 3,) in [0, 1]."""
        return Pixels(np.asarray(image.resize((SIDE, SIDE)), np.float32).ravel() / 255.0)

    def encode_images(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """Thumbnails, projected and normalised, one after the other."""
        thumbnails = cast("Sequence[FloatArray]", pixels)
        return [_unit((row + 0.1) @ self._eye).astype("<f4").tobytes() for row in thumbnails]

    def load_features(self, records: Sequence[bytes]) -> Features:
        """One float32 array (N, EMBED)."""
        return Features(np.frombuffer(b"".join(records), "<f4").reshape(len(records), EMBED))

    def score(self, prompts: Prompts, features: Features) -> FloatArray:
        """Cosines of hashed texts, moved by the offsets, with the thumbnails; times 100."""
        time.sleep(self._seconds_per_query * prompts.count)
        texts, offsets = prompts.plan
        words = np.stack([[_noise(text, (EMBED,)) for text in row] for row in texts])
        if offsets is not None:
            words = words + np.tanh(offsets.reshape(len(offsets), -1) @ self._mixing)[:, None]
        images = cast("FloatArray", features)
        logits = SCALE * np.einsum("pkd,nd->pnk", _unit(words), images)
        return cast("FloatArray", logits.astype(np.float32))


def _check_offsets(context: str, offsets: FloatArray | None) -> int:
    tokens = len(context.split())
    if offsets is None or offsets.shape[1:] != (tokens, WIDTH) or tokens != N_CTX:
        shape = None if offsets is None else list(offsets.shape)
        detail = f"offsets of shape {shape}; this model needs (P, {N_CTX}, {WIDTH})"
        raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")
    return len(offsets)


def _noise(word: str, shape: tuple[int, ...]) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _unit(array: FloatArray) -> FloatArray:
    return cast("FloatArray", array / np.linalg.norm(array, axis=-1, keepdims=True))
