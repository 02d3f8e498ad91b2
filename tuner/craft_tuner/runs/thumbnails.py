"""Test images that adapting gained, lost or left wrong, and small copies for the page of a run.

Gained: the zero-shot answer is wrong, the adapter's right; lost: the other way round; wrong: no
answer is right. Owns which few are shown, and thumbnails.json in a run (its bytes are bounded), so
that a page needs neither the data nor a server.
"""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import StringConstraints, TypeAdapter, ValidationError

from craft_tuner import files as durable
from craft_tuner.data.pictures import Picture, decode
from craft_tuner.errors import DataError, RunError
from craft_tuner.runs.predictions import Predicted

THUMBNAILS = "thumbnails.json"
SHOWN = 12
"""Of gained, of lost and of wrong images, at most."""
EDGE = 96
"""Longest side of a thumbnail in pixels."""

_QUALITY = 80

Thumbnails = Mapping[str, str]
"""Data URIs by the picture's name."""

_Stored = TypeAdapter(dict[str, Annotated[str, StringConstraints(pattern="^data:image/")]])


@dataclass(frozen=True)
class Changed:
    """Lines whose answer adapting turned right (`gained`) or wrong (`lost`), in order of names."""

    gained: tuple[Predicted, ...]
    lost: tuple[Predicted, ...]
    wrong: tuple[Predicted, ...]
    """Wrong in zero-shot and adapter, or in the one of them that was asked."""

    @property
    def shown(self) -> tuple[Predicted, ...]:
        """Those that a page has pictures of."""
        return (*examples(self.gained), *examples(self.lost), *examples(self.wrong))


def changed(lines: Iterable[Predicted]) -> Changed:
    """What adapting gained, lost and left wrong."""
    asked = [line for line in lines if line.zero_shot or line.adapted]
    both = [line for line in asked if line.zero_shot and line.adapted]
    turned = [line for line in both if (line.zero_shot == line.label) != _right(line)]
    return Changed(
        gained=tuple(line for line in turned if _right(line)),
        lost=tuple(line for line in turned if not _right(line)),
        wrong=tuple(line for line in asked if line.label not in (line.zero_shot, line.adapted)),
    )


def examples(lines: Sequence[Predicted], count: int = SHOWN) -> tuple[Predicted, ...]:
    """The surest answers, one of each class in turn, so that no class fills the page."""
    by_class: defaultdict[str, list[Predicted]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: (-(line.probability or 0), line.name)):
        by_class[line.label].append(line)
    ranked = [(rank, line) for mine in by_class.values() for rank, line in enumerate(mine)]
    return tuple(line for _, line in sorted(ranked, key=lambda pair: pair[0])[:count])


def thumbnails(pictures: Mapping[str, Picture], shown: Iterable[Predicted]) -> dict[str, str]:
    """Data URIs of the pictures shown; one that cannot be read is left out, since it is only shown.

    Args:
        pictures: by name.
        shown: lines that name them.
    """
    made = {}
    for line in shown:
        with suppress(DataError, KeyError):
            made[line.name] = thumbnail(pictures[line.name])
    return made


def thumbnail(picture: Picture) -> str:
    """A small copy as a data URI: PNG or JPEG, whichever is smaller.

    Raises:
        DataError: the picture cannot be read.
    """
    image = decode(picture)
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    kinds: dict[str, dict[str, int]] = {
        "png": {"optimize": True},
        "jpeg": {"quality": _QUALITY, "optimize": True},
    }
    kind, data = min(
        ((kind, _encoded(image, kind, options)) for kind, options in kinds.items()),
        key=lambda pair: len(pair[1]),
    )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def save(directory: Path, pictures: Mapping[str, Picture], lines: Iterable[Predicted]) -> None:
    """Write thumbnails.json of what adapting gained, lost and left wrong into a run."""
    made = thumbnails(pictures, changed(lines).shown)
    content = json.dumps(made, indent=0, ensure_ascii=False) + "\n"
    durable.replace(directory / THUMBNAILS, content.encode())


def load(directory: Path) -> Thumbnails:
    """The thumbnails of a run; none if it has no such file.

    Raises:
        RunError: the file holds anything but pictures by name.
    """
    file = directory / THUMBNAILS
    if not file.exists():
        return {}
    try:
        return _Stored.validate_json(file.read_bytes())
    except ValidationError as error:
        raise RunError(f"{file} is damaged; remove it, and give --data instead") from error


def _right(line: Predicted) -> bool:
    return line.adapted == line.label


def _encoded(image: Image.Image, kind: str, options: Mapping[str, int]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
