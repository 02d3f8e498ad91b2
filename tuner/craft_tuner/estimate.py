"""What a fit on a dataset would need, without a server: queries, images, bytes.

Owns the arithmetic over a plan. Sizes of image sets are those of a server with default limits; a
server with smaller ones sells the same vectors as more queries. Must not know command lines.
"""

import itertools

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import CardLimits
from craft_tuner import methods
from craft_tuner.budget import Plan
from craft_tuner.config import FitConfig
from craft_tuner.data.dataset import Dataset, Item, pictures_of
from craft_tuner.data.pictures import size_of
from craft_tuner.data.sampling import sample_shots
from craft_tuner.data.views import Augmentation, views_of
from craft_tuner.material import Material

LIMITS = CardLimits(
    prompts=1024,
    classes=2048,
    images=50_000,
    image_bytes=8 * 2**20,
    image_pixels=32_000_000,
    body_bytes=64 * 2**20,
    texts=2**18,
    logits=2**28,
)
"""What a craft-server takes if its owner changes nothing."""

IMAGE_SIZE = 224
"""Side of the input of the paper's models, which views are cut to."""

_VIEWS_MEASURED = 16
"""Views that are made to know what a view takes."""


class Estimate(BaseModel):
    """The plan of a fit, and what goes over the wire beside prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    images: int
    """Pictures uploaded: test images, shots and views."""
    image_bytes: int
    """Their files; views are reckoned from a sample."""
    reply_bytes: int
    """Logits as float32."""


def estimate(config: FitConfig, dataset: Dataset) -> Estimate:
    """What a fit would need; a dataset of test images alone needs its evaluation.

    Raises:
        DataError: the shots cannot be sampled, or a picture cannot be read.
        BudgetExhausted: not one generation fits the budget.
    """
    if not dataset.train:
        config = config.model_copy(update={"method": "zero_shot"})
    method = methods.get(config.method)
    material = Material(
        class_names=dataset.class_names,
        shots=_shots(config, dataset),
        test=dataset.test,
        views=method.views(config),
        augmentation=Augmentation(
            size=IMAGE_SIZE, seed=config.seed, scale=config.crop_scale, flip=config.flip
        ),
    )
    plan = method.plan(config, material.workload(LIMITS))
    return Estimate(
        plan=plan,
        images=material.pictures,
        image_bytes=_image_bytes(material),
        reply_bytes=plan.total.logit_vectors * len(material.class_names) * 4,
    )


def _shots(config: FitConfig, dataset: Dataset) -> tuple[Item, ...]:
    if not dataset.train:
        return ()
    return sample_shots(dataset, shots=config.shots, seed=config.seed, sampling=config.sampling)


def _image_bytes(material: Material) -> int:
    files = sum(size_of(item.picture) for item in (*material.test, *material.shots))
    views = material.views * len(material.shots)
    if not views:
        return files
    originals = pictures_of(material.shots)
    made = views_of(originals, material.augmentation, view=0)
    step = -(-len(made) // _VIEWS_MEASURED)
    sizes = [len(view.read()) for view in itertools.islice(made, 0, None, step)]
    return files + round(sum(sizes) / len(sizes) * views)
