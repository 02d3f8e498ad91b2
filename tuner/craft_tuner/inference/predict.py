"""Questions about pictures without labels: priced as a whole, asked and answered batch by batch.

Owns what a batch is (one image set, so that it costs one query for each of the adapter's prompts)
and what becomes of a picture that cannot be used: it is named and the rest of its batch goes on. A
batch asked again is the same purchase, so that it costs nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from craft_shared.messages import Budgets, CardLimits
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import FloatArray
from craft_tuner.client.batching import images_per_set
from craft_tuner.client.client import Client
from craft_tuner.client.uploads import OnUploaded, Upload
from craft_tuner.data.pictures import SAMPLE, Picture, decode
from craft_tuner.errors import BudgetExhausted, PictureError, UsageError

Batch = tuple[Picture, ...]


@dataclass(frozen=True)
class Price:
    """What all batches cost at most, and about how many bytes their pictures have."""

    images: int
    batches: int
    queries: int
    logit_vectors: int
    bytes: int

    def check(self, budgets: Budgets) -> None:
        """Make sure that the key can pay all of it.

        Raises:
            BudgetExhausted: it cannot.
        """
        wanted = {"queries": self.queries, "logit vectors": self.logit_vectors}
        left = {"queries": budgets.queries, "logit vectors": budgets.logit_vectors}
        for name, budget in left.items():
            if budget is not None and wanted[name] > budget.remaining:
                raise BudgetExhausted(
                    f"{self.images:,} images cost {wanted[name]:,} {name} and the key has "
                    f"{budget.remaining:,} left; nothing is spent. Name fewer images, ask the "
                    "server's owner for more, or begin with --anyway: what was asked before is "
                    "free, and what is answered is kept"
                )


@dataclass(frozen=True)
class Answer:
    """What came of a batch: logits float32 (N, K) of N pictures, and those that have none."""

    pictures: Batch
    logits: FloatArray
    refused: tuple[PictureError, ...]


def batches(
    pictures: Sequence[Picture], adapter: Adapter, limits: CardLimits, *, size: int | None = None
) -> list[Batch]:
    """Pictures in order, `size` at a time; None: as many as the server takes in one image set.

    Raises:
        UsageError: the server takes fewer than `size`.
    """
    most = images_per_set(len(adapter.asked.class_names), limits)
    if size is not None and not 1 <= size <= most:
        raise UsageError(
            f"a batch of {size:,} images; allowed for {len(adapter.asked.class_names):,} classes "
            f"on this server: 1 to {most:,}"
        )
    step = size or most
    return [tuple(pictures[start : start + step]) for start in range(0, len(pictures), step)]


def price(asked: Sequence[Batch], adapter: Adapter) -> Price:
    """What batches cost, if none of them was asked before; reads a few pictures to weigh all."""
    pictures = [picture for batch in asked for picture in batch]
    prompts = adapter.prompts_per_image
    return Price(
        images=len(pictures),
        batches=len(asked),
        queries=prompts * len(asked),
        logit_vectors=prompts * len(pictures),
        bytes=_weigh(pictures),
    )


def ask(
    client: Client, adapter: Adapter, batch: Batch, *, on_uploaded: OnUploaded = lambda _: None
) -> Answer:
    """Upload a batch and buy its logits; pictures that cannot be used are left out and named.

    Args:
        client: its run id is `evaluate.purchase_name(adapter)`, so that asking again is free.
        adapter: checked against the client's model.
        batch: pictures of different names.
        on_uploaded: called with how many more pictures are at the server.

    Raises:
        CraftTunerError: the server refuses or cannot be reached; what was answered is paid once.
    """
    refused: list[PictureError] = []
    sent = _upload(client, adapter, batch, refused, on_uploaded=_at_most(len(batch), on_uploaded))
    names = {error.picture for error in refused}
    usable = tuple(picture for picture in batch if picture.name not in names)
    if sent is None:
        nothing = np.empty((0, len(adapter.card.class_names)), np.float32)
        return Answer((), nothing, tuple(refused))
    _, logits = adapter.logits(client, sent.images, purpose="inference", step="inference")
    return Answer(usable, logits, tuple(refused))


def _upload(
    client: Client,
    adapter: Adapter,
    batch: Batch,
    refused: list[PictureError],
    *,
    on_uploaded: OnUploaded,
) -> Upload | None:
    """Upload what can be used; None if nothing can. The server judges, picture by picture.

    At its first refusal the others are looked at here, which spares a request for each.
    """
    usable: Sequence[Picture] = batch
    while usable:
        try:
            return client.upload(
                usable,
                name="predict",
                classes=len(adapter.asked.class_names),
                on_uploaded=on_uploaded,
            )
        except PictureError as error:
            first = not refused
            refused.append(error)
            usable = [picture for picture in usable if picture.name != error.picture]
            if first:
                usable = list(_sound(usable, refused))
    return None


def _sound(pictures: Sequence[Picture], refused: list[PictureError]) -> Iterator[Picture]:
    for picture in pictures:
        try:
            decode(picture)
        except PictureError as error:
            refused.append(error)
        else:
            yield picture


def _at_most(total: int, on_uploaded: OnUploaded) -> Callable[[int], None]:
    """Pictures that go up again after a refusal count once."""
    left = total

    def advance(more: int) -> None:
        nonlocal left
        more = min(more, left)
        left -= more
        on_uploaded(more)

    return advance


def _weigh(pictures: Sequence[Picture]) -> int:
    """As `data.pictures.weigh`, passing over what cannot be read."""
    sizes: list[int] = []
    for picture in pictures[:: max(1, len(pictures) // SAMPLE)]:
        with suppress(PictureError):
            sizes.append(len(picture.read()))
    return round(sum(sizes) / max(1, len(sizes)) * len(pictures))
