"""What the paper's code has: presets by name, and what `--paper-exact` pins.

Owns the facts of mrflogs/CraFT @1a4c251: `craft_configs/*.yaml` (the presets, one TOML file each in
`presets/`), `main_craft.py` (C), `main_craft_imagenet.py` (I), `main_craft_imagenet_robustness.py`.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple

from craft_tuner.errors import UsageError

SOURCE = "mrflogs/CraFT @1a4c251"

OWN_PRESETS = frozenset({"digits"})
"""Presets that are ours: the official code has no such dataset (decision 0011)."""

SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
"""Test sets without shots: what was fitted on ImageNet is evaluated on them."""

METHODS = ("zero_shot", "bbt", "craft")
"""Rows of the paper's tables that its code, or its code without the head, makes."""

SHOTS = (1, 2, 4, 8, 16)

CHOICES: Mapping[str, Any] = MappingProxyType(
    {
        "sampling": "craft",  # datasets/utils.py, decision 0017
        "head_context": "resampled",  # C:157-160, decision 0001; ImageNet's preset has its own
        "fitness_view": "augmented",  # C:184, decision 0004
        "step_size": "csa",  # pycma of that time, decision 0008
        "head_depth": 2,  # C:185-189, decision 0009
        "optimiser": "adam",  # C:191, decision 0009
        "dtype": "float32",  # C:151 has no rounding between logits and losses
    }
)
"""Official choices where a setting of ours has another default, or could be read another way."""

PINNED = (
    *CHOICES,
    *("budgets", "context", "context_tokens", "suffix"),
    *("intrinsic_dim", "population", "sigma", "bound", "projection", "std"),
    *("head_hidden", "lr", "batch_size", "kl_weight", "kl_fraction"),
    *("views", "crop_scale", "flip"),
)
"""Every setting that the official code decides; `views` is one per generation (decision 0002)."""


class Deviation(NamedTuple):
    """What differs from the official code whatever the settings: its record, and one sentence."""

    record: str
    sentence: str


REMAINING = (
    Deviation(
        "0002",
        "augmented views are drawn before the search, one for each generation; fitness sees the "
        "first of them",
    ),
    Deviation("0003", "the head learns from normalised logits, the only ones that a server sells"),
    Deviation("0005", "queries of the head and of the test count against the budget as well"),
    Deviation(
        "0007", "random numbers come from streams of our own: other start values, another order"
    ),
    Deviation("0017", "the second of ImageNet's two classes called missile has a name of its own"),
    Deviation("0019", "the image tower's precision is the server's, not half precision"),
)


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package, sorted."""
    files = resources.files("craft_tuner").joinpath("presets").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".toml")))


def paper_presets() -> tuple[str, ...]:
    """Names of the presets that the official code has a configuration for, sorted."""
    return tuple(name for name in preset_names() if name not in OWN_PRESETS)


def preset_of(title: str) -> str | None:
    """The preset of a dataset called `title`, if there is one."""
    name = title.lower().replace("-", "_")
    return name if name in preset_names() else None


def load_preset(name: str) -> dict[str, Any]:
    """Settings of one preset, for the paper's method; the key `preset` holds its name.

    Raises:
        UsageError: no preset has this name.
    """
    if name in SHIFTED:
        raise UsageError(
            f"{name} has no shots to fit on: fit with --preset imagenet_robustness (16 shots, "
            f"2,000 queries), then `craft-tuner evaluate RUN --data coop:{name}@ROOT`"
        )
    if name not in preset_names():
        raise UsageError(f"preset {name!r} does not exist; there are: {', '.join(preset_names())}")
    file = resources.files("craft_tuner").joinpath("presets", f"{name}.toml")
    return {"preset": name, "method": "craft", **tomllib.loads(file.read_text(encoding="utf-8"))}
