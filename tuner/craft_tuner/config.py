"""What a run is asked to do: one frozen value, built at the edge and handed down.

Owns the settings of a fit, their bounds and the presets (one TOML file per dataset of the paper in
`presets/`). Must not know run directories, servers, torch or command lines.

Numbers are those of the official code, mrflogs/CraFT @1a4c251: `craft_configs/*.yaml` for the
presets, `main_craft.py:main` for budgets, `main_craft_imagenet.py` for ImageNet's.
"""

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from craft_shared.limits import MAX_TEMPLATE_CHARS
from craft_tuner.errors import UsageError

MethodName = Literal["zero_shot", "bbt", "craft"]

MAX_SEED = 2**32 - 1
"""Seeds are those of `numpy.random.RandomState`, which pycma draws from."""


def _none_word(value: object) -> object:
    """TOML and command lines have no null: the word "none" stands for it."""
    return None if isinstance(value, str) and value.lower() == "none" else value


Bound = Annotated[
    Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None, BeforeValidator(_none_word)
]


class FitConfig(BaseModel):
    """Every setting of a fit. The defaults are the paper's for five of its eleven datasets."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str | None = Field(None, description="name of the preset these settings started from")
    method: MethodName = Field("craft", description="how to adapt: zero_shot, bbt or craft")
    shots: int = Field(16, ge=1, le=10_000, description="training images per class")
    seed: int = Field(1, le=MAX_SEED, description="seed of shots, projection, search and head")

    sampling: Literal["names", "coop", "craft"] = Field(
        "names",
        description="which images are the shots: drawn in order of names, or as CoOp's or CraFT's "
        "code draws them from the order of a split file",
    )

    budget: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="queries for the whole run, test included; none: the paper's for these shots, "
        "or what the key has left if that is less",
    )
    budgets: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        ((8, 8000), (2, 4000), (1, 2000)),
        min_length=1,
        max_length=16,
        description="the paper's budgets as pairs (at least so many shots, queries)",
    )

    context: str = Field(
        "a photo of a",
        min_length=1,
        max_length=MAX_TEMPLATE_CHARS,
        description="words before the class name; offsets add to them",
    )
    context_tokens: int | None = Field(
        None, ge=1, le=64, description="tokens of the context; none: its number of words"
    )
    suffix: str = Field(
        ".", max_length=MAX_TEMPLATE_CHARS, description="what follows the class name"
    )

    intrinsic_dim: int = Field(512, ge=2, le=4096, description="d, dimensions of z searched")
    population: int = Field(40, ge=4, le=4096, description="prompts per generation")
    sigma: float = Field(1.0, gt=0, le=1e3, description="initial step size of CMA-ES in z")
    bound: Bound = Field(5.0, description="z stays in [-bound, bound]; none: unbounded")
    step_size: Literal["csa", "tpa"] = Field(
        "csa", description="rule that adapts sigma: csa as the authors' pycma, tpa as pycma 4.5"
    )
    projection: Literal["normal", "uniform"] = Field(
        "normal", description="entries of A: normal(0, std), or uniform within 1/sqrt(d)"
    )
    std: float = Field(0.2, gt=0, le=1e3, description="standard deviation of a normal projection")
    head_context: Literal["mean", "best", "resampled"] = Field(
        "mean",
        description="prompt for head and result: mean of the search distribution, best sample "
        "ever, or mean of a newly drawn population (as the official code does)",
    )

    head_hidden: int = Field(256, ge=1, le=65_536, description="hidden units of the head")
    head_depth: int = Field(2, ge=2, le=3, description="weight matrices: 2 as coded, 3 as read")
    optimiser: Literal["adam", "adamw"] = Field(
        "adam", description="adam as coded, adamw as the paper writes"
    )
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate of the head")
    weight_decay: float = Field(0.01, ge=0, le=10, description="of adamw; adam has none")
    batch_size: int = Field(256, ge=1, le=10**6, description="images per step of the head")
    kl_weight: float = Field(0.1, ge=0, le=1e3, description="w, weight of the KL term")
    kl_fraction: int = Field(
        4,
        ge=1,
        le=1000,
        description="n: the head's KL term counts while evaluations <= budget // n",
    )

    dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="of logits on the line; float16 halves the replies and rounds logits of 16 to "
        "32 by up to 0.008",
    )

    views: int = Field(8, ge=1, le=1024, description="augmented copies of each shot, made once")
    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="smallest and largest share of the area that a crop keeps"
    )
    flip: bool = Field(default=True, description="mirror a view left-right with probability 1/2")
    fitness_view: Literal["original", "augmented"] = Field(
        "original", description="shots that fitness sees: as they are, or view 0 (official code)"
    )
    validation_folds: int = Field(
        4, ge=0, le=64, description="extra heads that estimate held-out accuracy; 0: none"
    )

    @field_validator("seed")
    @classmethod
    def _seed_is_a_seed(cls, seed: int) -> int:
        if seed < 1:
            raise ValueError("seeds start at 1, because pycma takes 0 as 'seed from the clock'")
        return seed

    @field_validator("validation_folds")
    @classmethod
    def _folds_leave_something(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold would leave no image to learn from; use 0 or at least 2")
        return folds

    @field_validator("crop_scale")
    @classmethod
    def _crop_is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("needs 0 < smallest <= largest <= 1")
        return scale

    @model_validator(mode="after")
    def _search_is_possible(self) -> Self:
        if self.bound is not None and self.sigma > self.bound * 2 / 3:
            raise ValueError(
                f"sigma {self.sigma} is wider than a third of [-{self.bound}, {self.bound}], "
                "where pycma would cut it; lower sigma or widen bound"
            )
        if self.head_context == "resampled" and self.step_size == "tpa":
            raise ValueError(
                "head_context 'resampled' needs step_size 'csa': pycma's tpa cannot "
                "draw a second population in one generation"
            )
        return self

    @property
    def n_ctx(self) -> int:
        """Tokens that offsets are added to (official: words of the context)."""
        return self.context_tokens or len(self.context.split())

    @property
    def paper_budget(self) -> int:
        """Queries that the paper spends at this number of shots."""
        fitting = [pair for pair in self.budgets if self.shots >= pair[0]]
        return max(fitting)[1] if fitting else min(self.budgets)[1]


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package, sorted."""
    files = resources.files("craft_tuner").joinpath("presets").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".toml")))


def preset_of(title: str) -> str | None:
    """The preset of a dataset called `title`, if there is one."""
    name = title.lower().replace("-", "_")
    return name if name in preset_names() else None


def load_preset(name: str) -> dict[str, Any]:
    """Settings of one preset; the key `preset` holds its name.

    Raises:
        UsageError: no preset has this name.
    """
    if name not in preset_names():
        raise UsageError(f"preset {name!r} does not exist; there are: {', '.join(preset_names())}")
    file = resources.files("craft_tuner").joinpath("presets", f"{name}.toml")
    return {"preset": name, **tomllib.loads(file.read_text(encoding="utf-8"))}


def build(*layers: Mapping[str, Any]) -> FitConfig:
    """One configuration from layers, the last one winning: say, a file, then flags.

    A layer's key `preset` names a preset that goes below all layers.

    Raises:
        UsageError: an unknown key or preset, or a value out of bounds; the message names each.
    """
    given = {key: value for layer in layers for key, value in layer.items()}
    preset = given.get("preset")
    settings = {**load_preset(str(preset)), **given} if preset else given
    try:
        return FitConfig.model_validate(settings)
    except ValidationError as error:
        raise UsageError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    faults = [_fault(fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()]
    return "configuration: " + "; ".join(faults)


def _fault(location: tuple[int | str, ...], reason: str, value: object) -> str:
    name = str(location[0]) if location else ""
    reason = reason.removeprefix("Value error, ")
    if not name:
        return reason
    if name not in FitConfig.model_fields:
        near = difflib.get_close_matches(name, FitConfig.model_fields, n=1)
        known = ", ".join(FitConfig.model_fields)
        hint = f"did you mean {near[0]}?" if near else f"there are: {known}"
        return f"no setting is called {name}; {hint}"
    meaning = FitConfig.model_fields[name].description
    return f"{name} = {value!r}: {reason} ({name} is: {meaning})"
