"""A deterministic black box in numpy, for tests and for measuring the server without a model.

It has what matters of a CLIP: cosine logits with a scale, class names that matter, and a smooth
dependence on the offsets. `craft-server serve --model stub` starts it; it imports no torch.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

import numpy as np
from PIL.Image import Image

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
    runs,
)
from craft_server.engine.texts import Counted, TooManyTokens, count_in_steps
from craft_shared.errors import Code, Refusal
from craft_shared.messages import CardLimits, LogitsRequest, ModelCard, SoftPrompts, TextPrompts

WIDTH = 16
N_CTX = 4
LENGTH = 77
EMBED = 24
SIDE = 8
SCALE = 100.0
TOKENS_PER_PASS = 4096

_Plan = tuple[list[list[str]], FloatArray | None]
"""Texts by prompt and class (of soft prompts one row), and offsets."""


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
        self.tokens_per_pass = TOKENS_PER_PASS
        self.asynchronous = False
        self.image_key = hashlib.sha256(b"stub::0 records 2").hexdigest()
        self._mixing = _noise("offsets", (N_CTX * WIDTH, EMBED)) / np.sqrt(N_CTX * WIDTH)
        self._eye = _noise("image", (SIDE * SIDE * 3, EMBED)) / np.sqrt(SIDE * SIDE * 3)

    def start(self) -> None:
        """Nothing to do."""

    def recover(self) -> None:
        """Nothing to do."""

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Count words as tokens, at once; see `prepare_in_steps`."""
        return at_once(self.prepare_in_steps(request, offsets))

    def prepare_in_steps(
        self, request: LogitsRequest, offsets: FloatArray | None
    ) -> Steps[Prompts]:
        """Count words as tokens, a template in each step; a soft prompt's context has four."""
        names = tuple(request.class_names)
        templates = _templates(request.prompts)
        count = len(templates)
        if isinstance(request.prompts, SoftPrompts):
            count = _check_offsets(request.prompts.context, offsets)
        texts: list[list[str]] = []
        for template in templates:
            if texts:
                yield
            texts.append([template.replace("{}", name) for name in names])
            for text in texts[-1]:
                _tokens(text)
        return Prompts(
            count=count,
            class_names=names,
            plan=(texts, offsets),
            pieces=runs(count, TOKENS_PER_PASS // len(names)),
            tokens=len(names),
            group=None if offsets is None else tuple(texts[0]),
        )

    def count_in_steps(
        self, prompts: SoftPrompts | TextPrompts, names: Sequence[str]
    ) -> Steps[Counted]:
        """Count words as tokens; see `BlackBox.count_in_steps`."""
        templates = _templates(prompts)
        texts = (template.replace("{}", name) for template in templates for name in names)
        counted = yield from count_in_steps(texts, _tokens)
        words = prompts.context.split() if isinstance(prompts, SoftPrompts) else None
        return replace(counted, context=None if words is None else len(words))

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

    def encode_texts(self, pieces: Sequence[Piece]) -> list[Texts]:
        """Hashed texts, moved by the offsets, normalised: (p, K, EMBED) for each piece."""
        time.sleep(self._seconds_per_query * sum(run.stop - run.start for _, run in pieces))
        return [cast("Texts", self._encode(prompts.plan, run)) for prompts, run in pieces]

    def _encode(self, plan: _Plan, run: slice) -> FloatArray:
        texts, offsets = plan
        if offsets is None:
            return np.stack([_unit(_words(tuple(row))) for row in texts[run]])
        moved = offsets[run].reshape(run.stop - run.start, -1) @ self._mixing
        return _unit(_words(tuple(texts[0])) + np.tanh(moved)[:, None])

    def logits(self, texts: Texts, features: Features, *, prompts: slice, images: slice) -> Awaited:
        """Cosines times 100."""
        words = cast("FloatArray", texts)[prompts]
        rows = cast("FloatArray", features)[images]
        logits = SCALE * np.einsum("pkd,nd->pnk", words, rows)
        return lambda: logits.astype(np.float32, copy=False)


def _templates(prompts: SoftPrompts | TextPrompts) -> list[str]:
    if isinstance(prompts, SoftPrompts):
        return [f"{prompts.context} {{}}{prompts.suffix}"]
    return prompts.templates


def _tokens(text: str) -> int:
    tokens = len(text.split()) + 2
    if tokens > LENGTH:
        raise TooManyTokens(text, tokens, fit=LENGTH)
    return tokens


def _check_offsets(context: str, offsets: FloatArray | None) -> int:
    tokens = len(context.split())
    if offsets is None or offsets.shape[1:] != (tokens, WIDTH) or tokens != N_CTX:
        shape = None if offsets is None else list(offsets.shape)
        detail = f"offsets of shape {shape}; this model needs (P, {N_CTX}, {WIDTH})"
        raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")
    return len(offsets)


@lru_cache(65_536)
def _words(texts: tuple[str, ...]) -> FloatArray:
    return np.stack([_noise(text, (EMBED,)) for text in texts])


def _noise(word: str, shape: tuple[int, ...]) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _unit(array: FloatArray) -> FloatArray:
    return cast("FloatArray", array / np.linalg.norm(array, axis=-1, keepdims=True))
