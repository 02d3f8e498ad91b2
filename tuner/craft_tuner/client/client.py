"""The black box over HTTP: one Idempotency-Key per request, checked replies, a count of purchases.

Implements `craft_tuner.blackbox.BlackBox`. Retries are in transport.py, uploads in uploads.py, the
division into requests in batching.py, the belief of what was spent in purchases.py.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from craft_shared import wire
from craft_shared.messages import (
    Budgets,
    ImageSet,
    KeyInfo,
    LogitsReply,
    LogitsRequest,
    ModelCard,
    ReplyDtype,
    SoftPrompts,
    TextPrompts,
)
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_tuner.activity import doing
from craft_tuner.blackbox import PARTIAL, FloatArray, Images, Purpose, Texts
from craft_tuner.client.account import fetch_key
from craft_tuner.client.batching import (
    Batch,
    BodySize,
    ImageRows,
    batches,
    image_rows,
    images_per_set,
)
from craft_tuner.client.known import Known
from craft_tuner.client.partial_logits import fill
from craft_tuner.client.purchases import Purchase, Purchases
from craft_tuner.client.responses import expect, message
from craft_tuner.client.transport import Call, Transport
from craft_tuner.client.upload_rate import UploadRate
from craft_tuner.client.uploads import OnUploaded, Upload, look, upload
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import ServerUnreachable, WrongModel

_TEMPLATE_BYTES = 8 * 1024
"""At most what one template takes in a request's header: 1,024 characters, escaped."""

_FRAME_BYTES = 2048
"""At most what the rest of a request's header takes."""

_REPLY_FRAME_BYTES = 8192
"""At most what stands before the logits of a reply, but for the model's id."""


class Client:
    """One tuner's view of one model behind one server.

    Args:
        transport: the connection, open for as long as the client is used.
        card: the model asked; `choose_model` finds it.
        run_id: names the purchases, to the server too: the same run asking for the same logits pays
            once, and the ledger adds up what the run spent.
        purchases: what this run bought so far; it is added to.
        dtype: of the logits on the wire; the card lists those that the server has.
    """

    def __init__(
        self,
        transport: Transport,
        card: ModelCard,
        *,
        run_id: str,
        purchases: Purchases | None = None,
        dtype: ReplyDtype = "float32",
    ) -> None:
        self._transport = transport
        self._url = transport.url
        self._card = card
        self._run_id = run_id
        self._dtype: ReplyDtype = dtype
        self._sizes: dict[str, int] = {}
        self._known = Known()
        self.upload_rate = UploadRate()
        """Learnt by uploading."""
        self.purchases = Purchases() if purchases is None else purchases

    @property
    def card(self) -> ModelCard:
        """What the server says of its model."""
        return self._card

    def key(self) -> KeyInfo:
        """What the key may do and has left, as the server says."""
        return fetch_key(self._transport)

    def budgets(self) -> Budgets:
        """What the key has left, as the server counts it."""
        return self.key().budgets

    def look(self, pictures: Sequence[Picture]) -> tuple[str, ...]:
        """Decode what the server lacks of pictures; none of them leaves. The id of each.

        Raises:
            DataError: a picture cannot be read or decoded, or is too large.
        """
        return look(self._transport, pictures, limits=self._card.limits, known=self._known)

    def upload(
        self,
        pictures: Sequence[Picture],
        *,
        name: str,
        classes: int,
        on_uploaded: OnUploaded = lambda _: None,
    ) -> Upload:
        """Bring pictures to the server; nothing is sent twice, and no query is spent.

        Args:
            pictures: read a batch at a time.
            name: of the image sets, for the server's owner to see.
            classes: K of the questions to come; more classes mean smaller image sets.
            on_uploaded: called with how many more pictures are there.

        Raises:
            DataError: a picture cannot be read or decoded, or is too large.
        """
        limits = self._card.limits
        done = upload(
            self._transport,
            pictures,
            limits=limits,
            set_size=images_per_set(classes, limits),
            name=name,
            on_uploaded=on_uploaded,
            rate=self.upload_rate,
            known=self._known,
        )
        self._sizes.update(zip(done.images.sets, done.sizes, strict=True))
        return done

    def score(
        self, texts: Texts, offsets: FloatArray, images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits float32 (P, N, K) of P soft prompts, `offsets` float32 (P, n_ctx, width).

        Costs P queries per image set, once per (run, step, content).

        Raises:
            BudgetExhausted: the key has less left; nothing was charged for the refused request.
            WrongModel: the server changed its model.
            CraftTunerError: any other error, see `errors_by_code`.
        """
        prompts = SoftPrompts(context=texts.context, suffix=texts.suffix)

        def compose(batch: Batch) -> _BatchRequest:
            return _BatchRequest(request(batch, prompts), offsets[batch.prompts])

        request = self._requests(texts, purpose)
        scoring = _Scoring(purpose, step, len(offsets), len(texts.class_names), compose)
        return self._score(scoring, images, size=_body_size(texts, offsets[0].nbytes))

    def score_templates(
        self, texts: Texts, templates: Sequence[str], images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """The same for P text templates, each with one `{}` for the class name."""

        def compose(batch: Batch) -> _BatchRequest:
            prompts = TextPrompts(templates=list(templates[batch.prompts]))
            return _BatchRequest(request(batch, prompts))

        request = self._requests(texts, purpose)
        scoring = _Scoring(purpose, step, len(templates), len(texts.class_names), compose)
        return self._score(scoring, images, size=_body_size(texts, _TEMPLATE_BYTES))

    def _requests(
        self, texts: Texts, purpose: Purpose
    ) -> Callable[[Batch, SoftPrompts | TextPrompts], LogitsRequest]:
        def request(batch: Batch, prompts: SoftPrompts | TextPrompts) -> LogitsRequest:
            return LogitsRequest(
                model=self._card.id,
                image_set=batch.images.image_set,
                class_names=list(texts.class_names),
                prompts=prompts,
                dtype=self._dtype,
                tag=purpose,  # the protocol's name for what the tuner calls the purpose
                run=self._run_id,
            )

        return request

    def _score(self, scoring: "_Scoring", images: Images, *, size: BodySize) -> FloatArray:
        logits = np.empty((scoring.prompts, images.count, scoring.classes), np.float32)
        divided = batches(
            scoring.prompts,
            self._rows(images),
            classes=scoring.classes,
            limits=self._card.limits,
            size=size,
        )
        asked = f"asking {scoring.prompts:,} prompts of {images.count:,} images"
        with doing(asked, total=scoring.prompts * images.count, unit="answers") as work:
            for batch in divided:
                logits[batch.prompts, batch.images.rows] = self._buy(scoring, batch)
                work.advance(batch.count * batch.images.count)
        return logits

    def _buy(self, scoring: "_Scoring", batch: Batch) -> NDArray[np.floating]:
        request = scoring.compose(batch)
        key = purchase_key(self._run_id, scoring.step, batch.name, body=request.identity())
        headers = {
            "Content-Type": TENSOR_MEDIA_TYPE,
            "Accept": TENSOR_MEDIA_TYPE,
            "Idempotency-Key": key,
        }
        rows = batch.count * batch.images.count
        call = Call(
            "POST",
            "/v1/logits",
            headers=headers,
            content=request.body(),
            reply_bytes=_REPLY_FRAME_BYTES
            + 2 * len(self._card.id)
            + wire.logits_bytes(self._dtype, rows=rows, classes=scoring.classes),
        )
        reply, logits = self._transport.send(call, _read_logits)
        self.purchases.record(
            Purchase(key=key, purpose=scoring.purpose, step=scoring.step, cost=reply.cost)
        )
        self._check_reply(reply, batch)
        self._check_shape(logits, (batch.count, batch.images.count, scoring.classes))
        partial = self._card.output in PARTIAL and np.isfinite(logits).any(axis=-1).all()
        return self._checked(fill(logits) if partial else logits)

    def _rows(self, images: Images) -> list[ImageRows]:
        rows = image_rows([(image_set, self._size(image_set)) for image_set in images.sets])
        total = sum(each.count for each in rows)
        if total != images.count:
            raise ServerUnreachable(
                f"{self._url} has {total} images in {len(rows)} image sets that should have "
                f"{images.count}; start the command again to upload them anew"
            )
        return rows

    def _size(self, image_set: str) -> int:
        if image_set not in self._sizes:
            call = Call("GET", f"/v1/image-sets/{image_set}")
            self._sizes[image_set] = self._transport.send(call, message(ImageSet)).images
        return self._sizes[image_set]

    def _check_reply(self, reply: LogitsReply, batch: Batch) -> None:
        if reply.digest != self._card.digest:
            raise WrongModel(
                f"{self._url} changed its model from {self._card.digest[:12]} to "
                f"{reply.digest[:12]} during the run; start a new run"
            )
        if (reply.model, reply.image_set) != (self._card.id, batch.images.image_set):
            raise ServerUnreachable(
                f"{self._url} answers for model {reply.model} and {reply.image_set}, asked "
                f"for {self._card.id} and {batch.images.image_set}; compare both programs' versions"
            )

    def _check_shape(self, logits: NDArray[np.floating], shape: tuple[int, int, int]) -> None:
        if logits.shape != shape:
            raise ServerUnreachable(
                f"{self._url} answers with logits of shape {logits.shape}, asked for "
                f"{shape} (prompts, images, classes); compare both programs' versions"
            )

    def _checked(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        if not np.isfinite(logits).all():
            raise ServerUnreachable(
                f"{self._url} answers with logits that are not finite numbers; its model or "
                "its arithmetic (half precision?) is broken: report it to its owner"
            )
        return logits


@dataclass(frozen=True)
class _BatchRequest:
    """What is sent for a batch."""

    request: LogitsRequest
    offsets: FloatArray | None = None

    def body(self) -> bytes:
        return wire.encode_request(self.request, self.offsets)

    def identity(self) -> bytes:
        """What decides the purchase: the body without the run, which is a label for the ledger."""
        return wire.encode_request(self.request.model_copy(update={"run": ""}), self.offsets)


@dataclass(frozen=True)
class _Scoring:
    """P prompts of K classes for one purpose; `compose` gives what is sent for a batch."""

    purpose: Purpose
    step: str
    prompts: int
    classes: int
    compose: Callable[[Batch], _BatchRequest]


def purchase_key(run_id: str, step: str, batch: str, *, body: bytes) -> str:
    """The Idempotency-Key of a batch: the same run, step, batch and bytes are the same purchase."""
    identity = "\n".join([run_id, step, batch, hashlib.sha256(body).hexdigest()])
    return hashlib.sha256(identity.encode()).hexdigest()


def _body_size(texts: Texts, per_prompt: int) -> BodySize:
    """An upper bound: the words are JSON within JSON, so that a character may take six bytes."""
    words = sum(6 * len(word) + 8 for word in (*texts.class_names, texts.context, texts.suffix))
    return BodySize(fixed=_FRAME_BYTES + words, per_prompt=per_prompt)


def _read_logits(response: httpx.Response) -> tuple[LogitsReply, NDArray[np.floating]]:
    expect(response, TENSOR_MEDIA_TYPE)
    return wire.decode_reply(response.content)
