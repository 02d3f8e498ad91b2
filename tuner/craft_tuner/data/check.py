"""What a dataset has, and everything that is wrong with it, by name and counted.

A finding is a problem (a fit would be refused, or its result would be wrong) or a remark. Each
picture is read once and dropped, so memory holds a digest per picture.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import CardLimits
from craft_tuner.data.class_names import no_words
from craft_tuner.data.dataset import Dataset
from craft_tuner.data.formats import SERVED
from craft_tuner.data.listing import Listing, Pair
from craft_tuner.data.pictures import BytesPicture, Picture, as_png, decode, most_bytes, recognise
from craft_tuner.errors import DataError, PackageMissing

SHOWN = 20
"""Names that a finding keeps; it counts them all."""


class Finding(BaseModel):
    """One kind of thing found, how often, and the names of the first of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    problem: bool
    count: int
    names: tuple[str, ...]


LARGE = "larger than the server"
"""How that finding begins."""


class Report(BaseModel):
    """What a dataset has. `bytes` is None where the files were not opened."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int
    train: int
    test: int
    validation: int
    fewest: int
    """Training images of the smallest class: the most shots that every class has."""
    most: int
    bytes: int | None
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Nothing found is a problem."""
        return not any(finding.problem for finding in self.findings)


def check(
    listing: Listing,
    *,
    opened: bool = True,
    validation: Sequence[Pair] = (),
    limits: CardLimits | None = None,
    on_read: Callable[[], None] = lambda: None,
) -> Report:
    """Look at a listing and, unless `opened` is false, at every picture of it.

    `validation` are the pictures that choices would be made on, which are not trained on;
    `limits` those of the server's model, as far as one is known.
    """
    found = [*_faults(listing), *_classes(listing)]
    size: int | None = None
    if opened:
        contents = Contents(limits)
        contents.read(listing, validation, on_read)
        found += contents.findings()
        size = contents.bytes
    counts = Counter(label for label, _ in listing.train)
    per_class = [counts[label] for label in listing.classes()] or [0]
    return Report(
        classes=len(per_class),
        train=len(listing.train),
        test=len(listing.test),
        validation=len(listing.validation.pairs),
        fewest=min(per_class),
        most=max(per_class),
        bytes=size,
        findings=tuple(finding for finding in found if finding.count),
    )


class Contents:
    """The bytes of a dataset's pictures: which are damaged, and which are there twice."""

    def __init__(self, limits: CardLimits | None = None) -> None:
        self.bytes = 0
        self._limits = limits
        self._large: list[str] = []
        self._damaged: list[str] = []
        self._unread: dict[str, list[str]] = defaultdict(list)
        """By what they need that is not installed."""
        self._converted: list[str] = []
        self._flat: list[str] = []
        self._seen: dict[bytes, tuple[str, str, str]] = {}
        """Split, label and name of the first picture of which these bytes are sent."""
        self._doubles: dict[str, list[str]] = defaultdict(list)

    def read(
        self, listing: Listing, validation: Sequence[Pair], on_read: Callable[[], None]
    ) -> None:
        """Read every picture that the reader has found."""
        missing = {fault.name for fault in listing.faults if fault.kind == "missing file"}
        for split, pairs in to_read(listing, validation).items():
            for label, picture in pairs:
                if picture.name not in missing:
                    self._look(split, label, picture)
                on_read()

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        yield finding("damaged or not an image", self._damaged)
        for needed, names in self._unread.items():
            yield finding(f"image that is {needed}", names)
        if self._limits is not None:
            most = f"{most_bytes(self._limits):,} bytes or {self._limits.image_pixels:,} pixels"
            yield finding(f"{LARGE} takes: {most}", self._large)
        yield finding("of one colour", self._flat, problem=False)
        yield finding("converted to PNG before the upload", self._converted, problem=False)
        yield finding("the same image in train and test", self._doubles["splits"])
        yield finding("the same image for validation and elsewhere", self._doubles["validation"])
        yield finding("the same image under two classes", self._doubles["classes"])
        yield finding("the same image twice in a class", self._doubles["class"], problem=False)

    def _look(self, split: str, label: str, picture: Picture) -> None:
        try:
            data = picture.read()
            kind = recognise(BytesPicture(data, picture.name))
            shown = decode(BytesPicture(data, picture.name))
        except PackageMissing as error:
            self._unread[error.needed].append(picture.name)
            return
        except DataError:
            self._damaged.append(picture.name)
            return
        sent = data
        if kind not in SERVED:
            self._converted.append(picture.name)
            sent = as_png(data, picture.name)
        if self._limits is not None and (
            len(sent) > most_bytes(self._limits)
            or shown.width * shown.height > self._limits.image_pixels
        ):
            self._large.append(picture.name)
        if shown.getcolors(1):
            self._flat.append(picture.name)
        self.bytes += len(data)
        this = (split, label, picture.name)
        first = self._seen.setdefault(hashlib.sha256(sent).digest(), this)
        if first is not this:
            self._doubles[_double(first, this)].append(f"{picture.name} = {first[2]}")


def to_read(listing: Listing, validation: Sequence[Pair]) -> dict[str, Sequence[Pair]]:
    """The pictures of each split; what is drawn for validation is not in train."""
    drawn = {id(picture) for _, picture in validation}
    train = [pair for pair in listing.train if id(pair[1]) not in drawn]
    return {"train": train, "test": listing.test, "validation": validation}


def _double(first: tuple[str, str, str], this: tuple[str, str, str]) -> str:
    """What is wrong with two pictures of the same bytes."""
    if first[0] != this[0]:
        return "validation" if this[0] == "validation" else "splits"
    return "class" if first[1] == this[1] else "classes"


def finding(what: str, names: Sequence[str], *, problem: bool = True) -> Finding:
    """A finding of its names."""
    return Finding(what=what, problem=problem, count=len(names), names=tuple(names[:SHOWN]))


def remark(what: str) -> Finding:
    """A finding about the dataset as a whole."""
    return Finding(what=what, problem=False, count=1, names=())


def _faults(listing: Listing) -> Iterator[Finding]:
    kinds: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for fault in listing.faults:
        kinds[fault.kind, fault.problem].append(fault.name)
    for (kind, problem), names in kinds.items():
        yield finding(kind, names, problem=problem)


def _classes(listing: Listing) -> Iterator[Finding]:
    untrained, untested = listing.missing()
    names = tuple(listing.class_name(label) for label in listing.classes())
    counts = Counter(label for label, _ in listing.train)
    pictures = [picture.name for _, picture in (*listing.train, *listing.test)]
    unicode = [name for name in (*names, *pictures) if not name.isascii()]
    yield finding("class without training images", untrained)
    yield finding("class without test images", untested)
    yield finding("class names", _refused(names))
    yield from (finding(what, found, problem=False) for what, found in no_words(names))
    single = [label for label in listing.classes() if counts[label] == 1]
    yield finding("class with one training image", single, problem=False)
    yield finding("name beyond ASCII", unicode, problem=False)
    if not listing.train:
        yield remark("no training images: for evaluation alone")
    if not listing.test:
        yield remark("no test images: a fit has no final test")


def _refused(names: tuple[str, ...]) -> list[str]:
    try:
        Dataset(names, ())
    except DataError as error:
        return [str(error)]
    return []
