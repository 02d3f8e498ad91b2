"""How the scores of P prompts on N images become requests that the server takes.

Owns the division: by image set, then by prompts. It depends on what is asked and the model card
alone, never on what went before, so that a resumed run sends the very same requests and pays for
none of them again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from craft_shared.messages import CardLimits
from craft_tuner.blackbox import LOGITS_AT_ONCE
from craft_tuner.errors import UsageError


@dataclass(frozen=True)
class ImageRows:
    """One image set and the rows of the answer, of N in all, that are its images."""

    image_set: str
    rows: slice

    @property
    def count(self) -> int:
        """Images in the set."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class Batch:
    """One request: `prompts` of P on one image set."""

    images: ImageRows
    prompts: slice

    @property
    def name(self) -> str:
        """What sets it apart from the other batches of one call."""
        return f"{self.images.rows.start}:{self.prompts.start}-{self.prompts.stop}"

    @property
    def count(self) -> int:
        """Prompts in the request."""
        return int(self.prompts.stop - self.prompts.start)


@dataclass(frozen=True)
class BodySize:
    """Bytes of a request's body: what every request takes, and what each prompt adds."""

    fixed: int
    per_prompt: int


def image_rows(sizes: Sequence[tuple[str, int]]) -> list[ImageRows]:
    """Rows of each image set, from (id, number of images) in order."""
    found, start = [], 0
    for image_set, size in sizes:
        found.append(ImageRows(image_set, slice(start, start + size)))
        start += size
    return found


def batches(
    prompts: int, sets: Sequence[ImageRows], *, classes: int, limits: CardLimits, size: BodySize
) -> Iterator[Batch]:
    """The requests for P prompts of K classes on the image sets, each within the limits.

    Args:
        prompts: P.
        sets: the image sets in order.
        classes: K.
        limits: of the model card.
        size: of a request's body.

    Raises:
        UsageError: not even one prompt fits.
    """
    check_classes(classes, limits)
    for images in sets:
        count = min(
            limits.prompts,
            limits.texts // classes,
            limits.logits // (images.count * classes),
            max(1, LOGITS_AT_ONCE // (images.count * classes)),
            (limits.body_bytes - size.fixed) // size.per_prompt,
        )
        if count < 1:
            raise UsageError(
                f"one prompt on {images.count} images of {classes} classes is more than the server "
                f"takes in one request ({limits.logits} logits, {limits.texts} texts, "
                f"{limits.body_bytes} bytes); ask its owner to raise the limit"
            )
        for start in range(0, prompts, count):
            yield Batch(images, slice(start, min(start + count, prompts)))


def check_classes(classes: int, limits: CardLimits) -> None:
    """Make sure that one prompt of K classes fits a request.

    Raises:
        UsageError: it does not.
    """
    most = min(limits.classes, limits.texts, limits.logits)
    if classes > most:
        raise UsageError(
            f"the dataset has {classes} classes, the server takes {most} in one request; "
            "use fewer classes or ask the server's owner to raise the limit"
        )


def images_per_set(classes: int, limits: CardLimits) -> int:
    """The largest image set on which one prompt of K classes still fits one request."""
    return max(1, min(limits.images, limits.logits // classes))
