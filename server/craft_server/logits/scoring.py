"""A request's logits on the device: image features once, texts piece by piece, then the product.

Owns how a request becomes device tasks, what is checked of their results and how a large reply is
cut into blocks. A reply of a few megabytes is computed whole. Of a larger one all texts are encoded
first, which takes the time and is where it can fail; its blocks are computed while they are sent.
Either way a request gives the same bits beside any others, unless the settings merge the tasks of
several clients.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from craft_server.engine.blackbox import Awaited, BlackBox, Features, FloatArray, Piece, Texts
from craft_server.engine.features import ImageFeatures
from craft_server.engine.scheduler import DeviceWorker
from craft_server.engine.tasks import Deadline, DeviceTask, Done
from craft_server.logits.disclosure import disclose
from craft_server.logits.pricing import PricedRequest
from craft_server.logits.results import Logits, StreamedResult, WholeResult, dtype_of
from craft_server.observability.tracing import Tracer
from craft_shared.messages import LogitsRequest, TextPrompts


class Block(NamedTuple):
    """Some prompts of one encoded piece on some images; only a single prompt's images are cut."""

    piece: int
    prompts: slice
    images: slice


T = TypeVar("T")

BLOCK_LOGITS = 2**20
"""Logits in a block, 4 MB in float32: what a reply takes of memory, however large it is."""

_CANARY = "the canary"


def fits_a_block(shape: tuple[int, int, int]) -> bool:
    """Is a reply (P, N, K) small enough to be computed whole?"""
    return shape[0] * shape[1] * shape[2] <= BLOCK_LOGITS


class NotFinite(RuntimeError):
    """The model gave a logit that is not finite, after so many seconds on the device."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the model gave a logit that is not finite")
        self.seconds = seconds


class _Part(NamedTuple):
    """One task of a request: encode a piece, then multiply with these images."""

    piece: Piece
    features: Features
    images: slice


class _Encoded(NamedTuple):
    texts: Texts
    logits: FloatArray
    """(p, n, K)."""


class Scorer:
    """Computes requests on one device worker."""

    def __init__(
        self,
        blackbox: BlackBox,
        image_features: ImageFeatures,
        worker: DeviceWorker,
        *,
        deadline_s: float,
        tracer: Tracer,
    ) -> None:
        self._blackbox = blackbox
        self._image_features = image_features
        self._worker = worker
        self._deadline_s = deadline_s
        self._tracer = tracer

    async def whole(self, priced: PricedRequest) -> WholeResult:
        """Logits of a small request in the dtype asked for.

        Raises:
            Refusal: `deadline_exceeded`, `draining`.
            NotFinite: the offsets, or the model, led to numbers that are none.
            RuntimeError: the model gave nonsense.
        """
        clock = _Clock(self._deadline_s, self._tracer)
        features = await self._features(priced, clock)
        parts = await self._encode(priced, features, clock, images=slice(0, priced.shape[1]))
        logits = np.empty(priced.shape, dtype_of(priced.request))
        for run, part in zip(priced.prompts.pieces, parts, strict=True):
            logits[run] = await _disclosed(part.logits, priced)
        return WholeResult(logits, clock.seconds)

    async def stream(self, priced: PricedRequest) -> StreamedResult:
        """Encode the texts of a large request; its blocks are computed as they are read.

        Raises: as `whole`; a failure while blocks are read is raised there.
        """
        clock = _Clock(self._deadline_s, self._tracer)
        features = await self._features(priced, clock)
        parts = await self._encode(priced, features, clock, images=slice(0, 1))
        proof = np.concatenate([part.logits for part in parts])[:, 0]
        texts = [part.texts for part in parts]
        return StreamedResult(proof, self._blocks(priced, texts, features), clock.seconds)

    async def check(self, *, deadline_s: float) -> None:
        """Score one text on one image."""
        task = DeviceTask.alone(_CANARY, partial(canary, self._blackbox))
        await self._worker.run([task], deadline=Deadline(deadline_s))

    async def _features(self, priced: PricedRequest, clock: "_Clock") -> Features:
        async def run(job: Callable[[], T]) -> T:
            task = DeviceTask.alone(priced.key.owner, job)
            (done,) = await self._worker.run([task], deadline=clock.deadline)
            return clock.count(done)

        try:
            return await self._image_features.of(
                priced.images, run, patience_s=clock.deadline.left_s
            )
        except TimeoutError as error:
            raise clock.deadline.passed("while others' images were encoded") from error

    async def _encode(
        self, priced: PricedRequest, features: Features, clock: "_Clock", *, images: slice
    ) -> list[_Encoded]:
        """All pieces are queued at once, so that the device never waits for the next.

        Once one runs, the caller pays: all are finished, also if it is cancelled meanwhile.
        """
        prompts = priced.prompts
        tasks: list[DeviceTask[_Encoded]] = [
            DeviceTask(
                priced.key.owner,
                self._launch,
                _Part(Piece(prompts, run), features, images),
                group=prompts.group,
                size=(run.stop - run.start) * prompts.tokens,
            )
            for run in prompts.pieces
        ]
        done = await self._worker.run(tasks, deadline=clock.deadline, finish=True)
        parts = [clock.count(part) for part in done]
        for run, part in zip(prompts.pieces, parts, strict=True):
            shape = run.stop - run.start, images.stop - images.start, priced.shape[2]
            _check(part.logits, shape, seconds=clock.seconds["model"])
        return parts

    def _launch(self, parts: Sequence[_Part]) -> list[Callable[[], _Encoded]]:
        """Encode pieces in one pass and start their products. On the device thread."""
        encoded = self._blackbox.encode_texts([part.piece for part in parts])
        return [self._start(part, texts) for part, texts in zip(parts, encoded, strict=True)]

    def _start(self, part: _Part, texts: Texts) -> Callable[[], _Encoded]:
        run = part.piece.run
        whole = slice(0, run.stop - run.start)
        logits = self._blackbox.logits(texts, part.features, prompts=whole, images=part.images)
        return lambda: _Encoded(texts, logits())

    async def _blocks(
        self, priced: PricedRequest, texts: list[Texts], features: Features
    ) -> AsyncIterator[Logits]:
        """Each block is a task of its own, so that other clients' come between."""
        _, images, classes = priced.shape
        for block in cut(priced.prompts.pieces, images, classes=classes, limit=BLOCK_LOGITS):
            launch = partial(self._launch_block, texts[block.piece], features, block)
            task: DeviceTask[FloatArray] = DeviceTask(priced.key.owner, launch)
            (done,) = await self._worker.run([task], deadline=Deadline(self._deadline_s))
            _trace(self._tracer, done)
            disclosed = await _disclosed(done.value, priced)
            yield disclosed.astype(dtype_of(priced.request), copy=False)

    def _launch_block(
        self, texts: Texts, features: Features, block: Block, _: Sequence[None]
    ) -> list[Awaited]:
        where = {"prompts": block.prompts, "images": block.images}
        return [self._blackbox.logits(texts, features, **where)]


def canary(blackbox: BlackBox) -> None:
    """Score one image on one text: a test forward. On the device thread.

    Raises:
        RuntimeError: the model gave numbers of another shape, or that are not finite.
    """
    request = LogitsRequest(
        model=blackbox.card.id,
        image_set="set_" + "0" * 32,
        class_names=["canary"],
        prompts=TextPrompts(templates=["a photo of a {}."]),
    )
    side, one = blackbox.card.image_size, slice(0, 1)
    pixels = blackbox.preprocess(Image.new("RGB", (side, side)))
    features = blackbox.load_features(blackbox.encode_images([pixels]))
    (texts,) = blackbox.encode_texts([Piece(blackbox.prepare(request, None), one)])
    _check(blackbox.logits(texts, features, prompts=one, images=one)(), (1, 1, 1))


class _Clock:
    """One request's deadline, and where its time went."""

    def __init__(self, deadline_s: float, tracer: Tracer) -> None:
        self.deadline = Deadline(deadline_s)
        self._tracer = tracer
        self.seconds = {"queue": 0.0, "model": 0.0}

    def count(self, done: Done[T]) -> T:
        self.seconds["queue"] += done.waited_s
        self.seconds["model"] += done.ran_s
        _trace(self._tracer, done)
        return done.value


async def _disclosed(logits: FloatArray, priced: PricedRequest) -> FloatArray:
    """What the key's policy discloses of finite logits."""
    output = priced.key.policy.output
    return logits if output.kind == "logits" else await asyncio.to_thread(disclose, logits, output)


def _trace(tracer: Tracer, done: Done[Any]) -> None:
    began = done.ended - done.ran_s
    tracer.past("queue", began=began - done.waited_s, ended=began)
    tracer.past("device", began=began, ended=done.ended)


def _check(logits: FloatArray, shape: tuple[int, int, int], *, seconds: float = 0.0) -> None:
    if logits.shape != shape:
        raise RuntimeError(f"the model gave logits {logits.shape}, expected {shape}")
    if not np.isfinite(logits).all():
        raise NotFinite(seconds)


def cut(pieces: Sequence[slice], images: int, *, classes: int, limit: int) -> Iterator[Block]:
    """Blocks of at most `limit` logits, or one row of `classes` where that is more.

    Args:
        pieces: runs of prompts; a block's prompts are counted from its piece's start.
        images: N.
        classes: K.
        limit: logits in a block.
    """
    rows = max(1, limit // classes)
    together = max(1, rows // images)
    for index, piece in enumerate(pieces):
        count = piece.stop - piece.start
        for start in range(0, count, together):
            prompts = slice(start, min(start + together, count))
            for first in range(0, images, rows):
                yield Block(index, prompts, slice(first, min(first + rows, images)))
