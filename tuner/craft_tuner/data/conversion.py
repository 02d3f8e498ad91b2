"""What is sent as PNG because servers do not take its format, named and counted."""

from collections.abc import Sequence

from craft_tuner.activity import doing
from craft_tuner.data.formats import SERVED
from craft_tuner.data.listing import some
from craft_tuner.data.pictures import Picture, recognise
from craft_tuner.errors import PictureError


def conversions(pictures: Sequence[Picture], *, lenient: bool = False) -> tuple[str, ...]:
    """A sentence for each format; looks at heads. `lenient` passes over what is no picture.

    Raises:
        PictureError: one is no picture, or cannot be read.
    """
    found: dict[str, list[str]] = {}
    with doing("reading heads of images", total=len(pictures), unit="images") as work:
        for picture in pictures:
            work.advance()
            try:
                kind = recognise(picture)
            except PictureError:
                if not lenient:
                    raise
                continue
            if kind not in SERVED:
                found.setdefault(kind, []).append(picture.name)
    return tuple(
        f"converted to PNG before the upload: {len(names):,} {kind} ({some(names)})"
        for kind, names in found.items()
    )
