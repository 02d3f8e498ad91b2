"""The pictures of a fit: which they are, what they cost, and how they get to the server.

Owns the step from a dataset to a `Task`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import ModelCard, Policy
from craft_tuner import method_registry, methods
from craft_tuner.blackbox import Images, Task, Texts, Validation
from craft_tuner.client.batching import check_classes, images_per_set
from craft_tuner.client.client import Client
from craft_tuner.client.uploads import OnUploaded, Upload
from craft_tuner.config import validation as choice
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.shots import most, takes_fewer
from craft_tuner.data.class_names import check_lengths
from craft_tuner.data.conversion import conversions
from craft_tuner.data.dataset import Dataset, Item, labels_of, pictures_of
from craft_tuner.data.pictures import Picture, weigh
from craft_tuner.data.sampling import sample_shots
from craft_tuner.data.sources import read_dataset
from craft_tuner.data.validation import own_split, read_validation, take_share
from craft_tuner.data.views import Augmentation, views_of
from craft_tuner.errors import DataError, PictureError, UsageError
from craft_tuner.methods import Method
from craft_tuner.plan import Workload, check_names, of_key


class Setup(BaseModel):
    """What a run needs to go on, beside its settings; never the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str
    model: str
    data: str
    class_names: str | None = None
    track: str | None = None
    """Tracker (`craft_tuner.training.tracking`)."""
    allow_outside: tuple[str, ...] = ()
    """Folders that images may be in beside the dataset's own."""

    def dataset(self, also: Iterable[Path] = ()) -> Dataset:
        """Read the dataset; no picture is opened. `also` are more folders to allow.

        Raises:
            DataError: it cannot be used.
        """
        names = Path(self.class_names) if self.class_names else None
        outside = [*map(Path, self.allow_outside), *also]
        return read_dataset(self.data, class_names=names, outside=outside)


@dataclass(frozen=True)
class Samples:
    """The pictures of a fit: shots with their views, validation images, and test images."""

    class_names: tuple[str, ...]
    shots: tuple[Item, ...]
    test: tuple[Item, ...]
    views: int
    augmentation: Augmentation
    bundled: bool = False
    """Whether all but the test is asked about together, in as few image sets as there can be."""
    validation: tuple[Item, ...] = ()
    """Images that choices are made on."""

    @property
    def pictures(self) -> int:
        """How many pictures are uploaded."""
        return len(self.test) + self.learnt_from

    @property
    def learnt_from(self) -> int:
        """How many of them are no test images."""
        return len(self.shots) * (1 + self.views) + len(self.validation)

    def without_shots(self) -> Self:
        """The same for a fit that asks nothing about shots: they stay here."""
        return replace(self, shots=(), views=0, validation=(), bundled=False)

    def weigh(self) -> int:
        """About how many bytes the pictures have; reads a few of each kind.

        Raises:
            DataError: one of those cannot be read.
        """
        originals = pictures_of(self.shots)
        one_view = views_of(originals, self.augmentation, view=0) if self.views else []
        apart = weigh(pictures_of(self.test)) + weigh(pictures_of(self.validation))
        return apart + weigh(originals) + self.views * weigh(one_view)

    def workload(self, card: ModelCard, policy: Policy | None = None) -> Workload:
        """The sizes that a plan is priced by, and what a key of this policy may ask."""
        size = images_per_set(len(self.class_names), card.limits)
        bundle = self.learnt_from if self.bundled else 0
        key = of_key(card, policy)
        most = max(bundle, len(self.shots), len(self.test), len(self.validation))
        largest = max(1, min(size, most))
        return Workload(
            classes=len(self.class_names),
            shots=len(self.shots),
            shot_sets=-(-len(self.shots) // size),
            test_images=len(self.test),
            test_sets=-(-len(self.test) // size),
            bundle=bundle,
            validation=len(self.validation),
            validation_sets=-(-len(self.validation) // size),
            set_size=size,
            **key | {"names": min(key["names"], card.limits.logits // largest)},
        )


def check_prompts(config: FitConfig, dataset: Dataset, card: ModelCard) -> None:
    """Make sure that a prompt fits a request, and no class name is certain to be too long.

    Raises:
        UsageError: there are more classes than a request may have.
        DataError: a name is too long for the model.
    """
    names, most = dataset.class_names, card.context_length
    check_classes(len(names), card.limits)
    check_lengths(names, context=config.context, suffix=config.suffix, most=most)


def draw(config: FitConfig, dataset: Dataset) -> tuple[Item, ...]:
    """The shots of a dataset.

    Raises:
        DataError: a class has too few images.
    """
    return sample_shots(
        dataset,
        shots=most(config.shots),
        seed=config.seed,
        sampling=config.sampling,
        fewer=takes_fewer(config.shots),
    )


def gather(config: FitConfig, dataset: Dataset, method: Method, *, card: ModelCard) -> Samples:
    """Sample the shots of a dataset; no picture is opened.

    Raises:
        AccessDenied: the key may not ask about its classes.
        DataError: a class has too few images, or a name too many tokens; or there are no images for
            validation that can be used.
        UsageError: the method chooses nothing on validation images.
    """
    check_names(card, dataset.class_names)
    check_prompts(config, dataset, card)
    shots, validation = _shots_and_validation(config, dataset, method)
    return Samples(
        class_names=dataset.class_names,
        shots=shots,
        validation=validation,
        test=dataset.test,
        views=method.views(config),
        augmentation=Augmentation(
            size=card.image_size, seed=config.seed, scale=config.crop_scale, flip=config.flip
        ),
        bundled=method.bundled,
    )


def _shots_and_validation(
    config: FitConfig, dataset: Dataset, method: Method
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """A share is drawn first, so that no shot is in it; else the shots are what they always are."""
    named = config.validation
    if named == choice.NONE:
        return draw(config, dataset), ()
    if not method.validated:
        raise UsageError(
            f"--validation is for methods that choose by it ({', '.join(_choosing())}); --method "
            f"{method.name} chooses nothing, so leave --validation out"
        )
    share = choice.share(named)
    if share is None:
        apart = own_split(dataset) if named == choice.SPLIT else read_validation(named, dataset)
        return draw(config, dataset), apart
    rest, apart = take_share(dataset, share, seed=config.seed)
    try:
        return draw(config, rest), apart
    except DataError as error:
        raise DataError(f"after --validation {named}, {error}") from error


def _choosing() -> list[str]:
    """The built-in methods that use validation images."""
    return [name for name in method_registry.BUILT_IN if methods.get(name).validated]


def send(
    samples: Samples,
    client: Client,
    config: FitConfig,
    *,
    on_uploaded: OnUploaded,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Task, Upload | None]:
    """Upload test images, shots, views and validation images; the task, and the test images apart.

    Looks at every picture first, the heads of all and then what the server lacks to the end: with
    one that is damaged, or is in two splits, nothing leaves.

    Raises:
        DataError: a picture cannot be used, or one is a shot, a test or a validation image at once.
    """

    def upload(pictures: Sequence[Picture], name: str) -> Upload:
        classes = len(samples.class_names)
        with _pointed_out():
            return client.upload(pictures, name=name, classes=classes, on_uploaded=on_uploaded)

    with _pointed_out():
        everything = pictures_of((*samples.shots, *samples.validation, *samples.test))
        for sentence in conversions(everything):
            say(sentence)
        ids = client.look(everything)
    _check_apart(ids, samples)
    test = upload(pictures_of(samples.test), "test") if samples.test else None
    texts = Texts(samples.class_names, config.context, config.suffix)
    labels = labels_of(samples.shots)
    if not samples.shots:
        return Task(texts, Images((), 0), (), labels), test
    originals, others = pictures_of(samples.shots), pictures_of(samples.validation)
    shots = upload(originals, "shots")
    apart = upload(others, "validation") if others else None
    validation = Validation(apart.images, labels_of(samples.validation)) if apart else None
    task = Task(texts, shots.images, (), labels, validation=validation)
    augmented = [
        views_of(originals, samples.augmentation, view=view) for view in range(samples.views)
    ]
    if samples.bundled:
        views = (picture for view in augmented for picture in view)
        bundle = upload([*originals, *others, *views], "bundle").images
        return replace(task, bundle=bundle), test
    seen = tuple(upload(view, f"view-{number}").images for number, view in enumerate(augmented))
    return replace(task, views=seen), test


@contextmanager
def _pointed_out() -> Iterator[None]:
    """One bad picture ends a fit; where to find the others."""
    try:
        yield
    except PictureError as error:
        raise DataError(f"{error}; `craft-tuner data check` names and counts all") from error


def _check_apart(ids: Sequence[str], samples: Samples) -> None:
    """No image may be in two of shots, validation and test, and no shot may have two labels.

    `ids` are those of shots, validation and test images, in this order.
    """
    kinds = {"training": samples.shots, "validation": samples.validation, "test": samples.test}
    items = [(kind, item) for kind, mine in kinds.items() for item in mine]
    known: dict[str, tuple[str, Item]] = {}
    faults: list[str] = []
    for identity, (kind, item) in zip(ids, items, strict=True):
        what, other = known.setdefault(identity, (kind, item))
        if what != kind:
            faults.append(
                f"the {kind} image {item.picture.name} is the {what} image "
                f"{other.picture.name}; remove one of them"
            )
        elif kind == "training" and other.label != item.label:
            faults.append(
                f"{other.picture.name} and {item.picture.name} are the same image under two "
                "classes; keep one"
            )
    if faults:
        more = f" (and {len(faults) - 1:,} more like it)" if faults[1:] else ""
        raise DataError(faults[0] + more)
