"""A black box whose image tower is a file: real CLIP features behind the real server and meter.

    python -m benchmarks.accuracy.feature_box DATA   (settings of the server: CRAFT_SERVER_*)

DATA holds clip_vit_b32/{caltech101,ucf101,text_names}.npz (see `Table.load`). A picture of one
colour stands for a row of the image features: its red, green and blue are the row's number, so
whatever crops, flips or scales it leaves it the same picture. A text is looked up in a table, which
holds "a {name}" of some two thousand common things; nothing else can be asked.

It implements the server's port for models (`craft_server.engine.blackbox`).
"""

import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from craft_server.app import card_limits, run
from craft_server.engine.blackbox import (
    Awaited,
    Features,
    FloatArray,
    Piece,
    Pixels,
    Prompts,
    Steps,
    Texts,
    runs,
)
from craft_server.engine.texts import Counted, count_in_steps
from craft_server.observability import logs
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import CardLimits, LogitsRequest, ModelCard, SoftPrompts, TextPrompts

DATASETS = ("caltech101", "ucf101")
SHOTS = (1, 2, 4, 8, 16)
CANARY = "a photo of a canary."
"""What the server's readiness check asks; the mean of all texts answers."""
MODEL = "ViT-B-32-features::openai"
SCALE = 100.0
SIDE = 8
"""Pixels of a picture's side."""

_FOLDER = "clip_vit_b32"
_TEXTS_PER_PASS = 4096


@dataclass(frozen=True)
class Part:
    """A split of a data set: which rows of the table, and their labels (int64)."""

    rows: range
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """All image features below each other, and the texts."""

    images: FloatArray
    """(rows, D), each of length 1."""
    parts: dict[tuple[str, str], Part]
    """By data set and split: "test", "1shot", ... "16shot"."""
    class_names: dict[str, tuple[str, ...]]
    """By data set."""
    texts: dict[str, FloatArray]
    """(D,), each of length 1, by name: the embedding of "a {name}"."""

    @classmethod
    def load(cls, data: Path) -> Self:
        """Read the files; features are float16 there and float32 of length 1 from here on.

        Raises:
            FileNotFoundError: there are none.
        """
        folder, blocks, parts, names, start = data / _FOLDER, [], {}, {}, 0
        for dataset in DATASETS:
            with np.load(folder / f"{dataset}.npz") as arrays:
                names[dataset] = tuple(str(name) for name in arrays["classnames"])
                for split in ("test", *(f"{shots}shot" for shots in SHOTS)):
                    blocks.append(_unit(arrays[f"X_{split}"]))
                    rows = range(start, start := start + len(blocks[-1]))
                    parts[dataset, split] = Part(rows, arrays[f"y_{split}"].astype(np.int64))
        with np.load(folder / "text_names.npz") as arrays:
            texts: dict[str, FloatArray] = {}
            for name, text in zip(arrays["names"], _unit(arrays["X"]), strict=True):
                texts.setdefault(str(name), text)
        return cls(np.concatenate(blocks), parts, names, texts)


class FeatureBox:
    """See the module; implements `craft_server.engine.blackbox.BlackBox`."""

    def __init__(self, table: Table, limits: CardLimits) -> None:
        self._table = table
        self.card = ModelCard(
            id=MODEL,
            digest=self.image_key,
            context_width=table.images.shape[1],
            context_length=77,
            image_size=SIDE,
            logit_scale=SCALE,
            prompt_kinds=["text"],
            dtype="float32",
            text_path="table",
            limits=limits,
        )
        self.tokens_per_pass = _TEXTS_PER_PASS
        self.asynchronous = False
        self._texts = {f"a {name}": text for name, text in table.texts.items()}
        self._texts[CANARY] = np.mean(list(table.texts.values()), axis=0)

    @cached_property
    def image_key(self) -> str:
        """Digest of the features themselves."""
        return hashlib.sha256(self._table.images.tobytes()).hexdigest()

    def start(self) -> None:
        """Nothing to do."""

    def recover(self) -> None:
        """Nothing to do."""

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Look the names up."""
        names = tuple(request.class_names)
        templates = self._templates(request.prompts)
        texts = [[each.replace("{}", name) for name in names] for each in templates]
        return Prompts(
            count=len(texts),
            class_names=names,
            plan=np.stack([[self._text(text) for text in row] for row in texts]),
            pieces=runs(len(texts), _TEXTS_PER_PASS // len(names)),
            tokens=len(names),
        )

    def prepare_in_steps(
        self, request: LogitsRequest, offsets: FloatArray | None
    ) -> Steps[Prompts]:
        """Look the names up, in one step."""
        yield
        return self.prepare(request, offsets)

    def count_in_steps(
        self, prompts: SoftPrompts | TextPrompts, names: Sequence[str]
    ) -> Steps[Counted]:
        """Look the texts up; of those that are there, words count as tokens."""
        templates = self._templates(prompts)
        texts = (each.replace("{}", name) for each in templates for name in names)
        return count_in_steps(texts, lambda text: len(text.split()) if len(self._text(text)) else 0)

    def _templates(self, prompts: SoftPrompts | TextPrompts) -> list[str]:
        if isinstance(prompts, TextPrompts):
            return prompts.templates
        detail = f"soft prompts are switched off; allowed: {self.card.prompt_kinds}"
        raise Refusal(Code.PROMPT_KIND_DENIED, detail, param="prompts.kind")

    def preprocess(self, image: Image.Image) -> Pixels:
        """The number of the row that the picture stands for."""
        colours = np.unique(np.asarray(image).reshape(-1, 3), axis=0)
        row = int.from_bytes(colours[0].tobytes(), "big")
        if len(colours) != 1 or row >= len(self._table.images):
            detail = f"not a picture of one colour below row {len(self._table.images):,}"
            raise Refusal(Code.UNDECODABLE_IMAGE, detail)
        return Pixels(row)

    def encode_images(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """The rows of the pictures."""
        rows = cast("Sequence[int]", pixels)
        return [self._table.images[row].astype("<f4").tobytes() for row in rows]

    def load_features(self, records: Sequence[bytes]) -> Features:
        """One float32 array (N, D)."""
        return Features(np.frombuffer(b"".join(records), "<f4").reshape(len(records), -1))

    def encode_texts(self, pieces: Sequence[Piece]) -> list[Texts]:
        """(p, K, D) for each piece."""
        return [Texts(prompts.plan[run]) for prompts, run in pieces]

    def logits(self, texts: Texts, features: Features, *, prompts: slice, images: slice) -> Awaited:
        """Cosines times 100, float32 (p, n, K)."""
        words = cast("FloatArray", texts)[prompts]
        rows = cast("FloatArray", features)[images]
        logits: FloatArray = np.float32(SCALE) * (rows @ words.transpose(0, 2, 1))
        return lambda: logits

    def _text(self, text: str) -> FloatArray:
        found = self._texts.get(text)
        if found is None:
            detail = f"{text[:60]!r} is not among the {len(self._texts):,} texts of the table"
            raise Refusal(Code.INVALID_REQUEST, f"{detail}: 'a ' and a common name", param="texts")
        return found


def picture_of(row: int) -> bytes:
    """A PNG that stands for a row of the table."""
    buffer = io.BytesIO()
    colour = cast("tuple[int, int, int]", tuple(row.to_bytes(3, "big")))
    Image.new("RGB", (SIDE, SIDE), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _unit(rows: npt.NDArray[np.float16]) -> FloatArray:
    wide = rows.astype(np.float32)
    return cast("FloatArray", wide / np.linalg.norm(wide, axis=1, keepdims=True))


def main() -> None:
    """Serve the table until SIGTERM."""
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)
    run(settings, FeatureBox(Table.load(Path(sys.argv[1])), card_limits(settings)))


if __name__ == "__main__":
    main()
