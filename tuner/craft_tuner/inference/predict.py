"""Questions about pictures without labels: priced as a whole, asked and answered batch by batch.

Owns what a batch is (one image set, so that it costs one query for each of the adapter's prompts)
and what becomes of a picture that cannot be used: it is named and the rest of its batch goes on. A
batch asked again is the same purchase, so that it costs nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from craft_shared.messages import Budgets, CardLimits, Counters, Output
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import FloatArray
from craft_tuner.client.batching import images_per_set
from craft_tuner.client.client import Client
from craft_tuner.client.uploads import OnUploaded, Upload
from craft_tuner.data.pictures import SAMPLE, Picture, decode
from craft_tuner.errors import BudgetExhausted, PictureError, UsageError
from craft_tuner.plan import amounts, lacks, left_of, numbers_told, sum_costs
from craft_tuner.plan import price as price_phase

Batch = tuple[Picture, ...]


@dataclass(frozen=True)
class Price:
    """What all batches cost at most, and about how many bytes their pictures have."""

    images: int
    batches: int
    cost: Counters
    bytes: int

    def check(self, budgets: Budgets) -> None:
        """Make sure that the key can pay all of it.

        Raises:
            BudgetExhausted: it cannot.
        """
        left = left_of(budgets)
        short = lacks(self.cost, left)
        if short is not None:
            raise BudgetExhausted(
                f"{self.images:,} images cost {amounts(self.cost, [short])} and the key has "
                f"{left[short]:,} left; nothing is spent. Name fewer images, ask the "
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


def price(asked: Sequence[Batch], adapter: Adapter, output: Output) -> Price:
    """What batches cost, if none of them was asked before; reads a few pictures to weigh all.

    `output` is what the key is told.
    """
    pictures = [picture for batch in asked for picture in batch]
    cost = cost_of(adapter, output, images=len(pictures), sets=len(asked))
    return Price(len(pictures), len(asked), cost, _weigh(pictures))


def cost_of(
    adapter: Adapter, output: Output, *, images: int, sets: int, zero_shot: bool = False
) -> Counters:
    """What an adapter's answers about images cost, and zero-shot's beside them."""
    size = {"images": images, "sets": sets, "told": numbers_told(output)}
    asked, classes = len(adapter.asked.class_names), len(adapter.card.class_names)
    prompts = adapter.prompts_per_image
    phases = [price_phase("inference", "", prompts=prompts, names=asked, **size)]
    if zero_shot:
        phases.append(price_phase("zero-shot", "", prompts=1, names=classes, **size))
    return sum_costs(phases)


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
