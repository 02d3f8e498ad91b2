"""What a run is asked to do: one frozen value, built at the edge and handed down.

Owns the settings that methods share, their bounds, and how layers of settings become one
configuration. The numbers are those of the official code; presets and what `paper_exact` pins are
in `presets`.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from craft_shared.limits import MAX_TEMPLATE_CHARS
from craft_tuner import method_registry
from craft_tuner.config import presets as official
from craft_tuner.config.errors import explain
from craft_tuner.config.method_settings import Fields, MethodSettings, joined, models, of_others
from craft_tuner.config.shots import Shots, most
from craft_tuner.config.validation import NONE, Validation
from craft_tuner.errors import UsageError

Own = TypeVar("Own", bound=MethodSettings)

_UNSAID = ("validation", NONE)

MAX_SEED = 2**32 - 1
"""Seeds are those of `numpy.random.RandomState`, which pycma draws from."""


def _none_word(value: object) -> object:
    """TOML and command lines have no null: the word "none" stands for it."""
    return None if isinstance(value, str) and value.lower() == "none" else value


Bound = Annotated[
    Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None, BeforeValidator(_none_word)
]


class FitConfig(BaseModel):
    """Every setting of a fit. The defaults are the paper's for five of its eleven datasets.

    The class has the settings that methods share. Its values have those of the methods as well
    (`craft_tuner.config.method_settings`): they are instances of a subclass for their method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str | None = Field(None, description="name of the preset these settings started from")
    method: str = Field(
        "auto", description="how to adapt; a preset of the paper means craft unless it is said"
    )
    shots: Shots = Field(
        16,
        description='training images per class: 1 to 10,000; "up to 16" takes what a class with '
        'fewer has, "all" takes all',
    )
    seed: int = Field(1, le=MAX_SEED, description="seed of shots, projection, search and head")
    paper_exact: bool = Field(
        default=False,
        description="whatever the paper's code decides is as it decides, and contradicting "
        "settings are refused; needs a preset of the paper",
    )

    sampling: Literal["names", "coop", "craft"] = Field(
        "names",
        description="which images are the shots: drawn in order of names, or as CoOp's or CraFT's "
        "code draws them from the order of a split file",
    )
    validation: Validation = Field(
        NONE,
        description="images that choices are made on: none, split (the source's own), a share of "
        "the training images (0.2, 20%), or a folder or table",
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

    dtype: Literal["auto", "float32", "float16", "int16"] = Field(
        "auto",
        description="of logits on the line; int16 and float16 about halve the replies: int16 "
        "rounds by 1/131068 of a row's range, float16 by up to 0.008 for logits of 16 to 32; "
        "auto: int16 where float32 would take more than a minute of the line, else float32",
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

    def __new__(cls, **given: Any) -> Self:
        """A value of the subclass that has the settings of the methods."""
        value: Self = super().__new__(_complete(cls, given))
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles name the method, since the subclass is made anew where they are read."""
        return _blank, (self.method,), self.__getstate__()

    @model_validator(mode="wrap")
    @classmethod
    def _is_complete(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Wherever a `FitConfig` is read, say from config.json, it is read as the subclass."""
        whole = _complete(cls, given) if isinstance(given, Mapping) else cls
        return handler(given) if whole is cls else whole.model_validate(given)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """Adapters of fits that were begun before there was `validation` keep their bytes."""
        names = (name for name in fields(self.method) if (name, self.validation) != _UNSAID)
        return {name: getattr(self, name) for name in names}

    def of(self, settings: type[Own]) -> Own:
        """The same value, as the settings of a method.

        Raises:
            TypeError: it is the configuration of another method.
        """
        whole: BaseModel = self
        if not isinstance(whole, settings):
            raise TypeError(f"the configuration of {self.method} has no {settings.__name__}")
        return whole

    @field_validator("method")
    @classmethod
    def _method_exists(cls, method: str) -> str:
        if method not in method_registry.names():
            raise ValueError(f"it {method_registry.absent()}")
        return method

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
    def official_generations(self) -> int:
        """Generations of the official code: its budget counts the population's queries alone."""
        return self.paper_budget // self.population

    @property
    def paper_budget(self) -> int:
        """Queries that the paper spends at this number of shots."""
        fitting = [pair for pair in self.budgets if most(self.shots) >= pair[0]]
        return max(fitting)[1] if fitting else min(self.budgets)[1]


DEFAULT_METHOD: str = FitConfig.model_fields["method"].default


def fields(method: str = DEFAULT_METHOD) -> Fields:
    """Every setting of a fit with this method, in the order in which they are listed.

    Raises:
        UsageError: the method is of a package that cannot be imported.
    """
    return _fields(method if method in method_registry.installed() else None)


def every_field() -> Fields:
    """The settings of all methods, those of other packages last; broken packages are left out."""
    found = dict(fields())
    for name in method_registry.installed():
        with suppress(UsageError):
            found |= fields(name)
    return found


@cache
def _fields(foreign: str | None) -> Fields:
    return MappingProxyType(
        joined(FitConfig.model_fields, models(foreign), reserved=dir(FitConfig))
    )


@cache
def _composed(foreign: str | None) -> type[FitConfig]:
    _fields(foreign)  # refuses names that are taken
    bases: tuple[Any, ...] = (FitConfig, *models(foreign))
    return cast("type[FitConfig]", create_model("FitConfig", __base__=bases, __module__=__name__))


def _complete(cls: type[FitConfig], given: Mapping[str, Any]) -> Any:
    """The subclass of `FitConfig` for the method given; `cls` where it is a subclass already."""
    if cls is not FitConfig:
        return cls
    method = str(given.get("method"))
    return _composed(method if method in method_registry.installed() else None)


def _blank(method: str) -> FitConfig:
    """A value without its settings, which a pickle then gives it."""
    return FitConfig.__new__(FitConfig, method=method)


def build(*layers: Mapping[str, Any]) -> FitConfig:
    """One configuration from layers, the last one winning: say, a file, then flags.

    A layer's key `preset` names a preset that goes below all layers. With `paper_exact`, whatever
    the official code decides is as it decides.

    Raises:
        UsageError: an unknown key or preset, a value out of bounds, or one that contradicts
            `paper_exact`; the message names each.
    """
    given = {key: value for layer in layers for key, value in layer.items()}
    name = given.get("preset")
    preset = official.load_preset(str(name)) if name else {}
    config = _validate({**preset, **given})
    return _as_in_the_paper(config, preset, given) if config.paper_exact else config


def _validate(settings: Mapping[str, Any]) -> FitConfig:
    known = fields(str(settings.get("method", DEFAULT_METHOD)))
    elsewhere = of_others(settings, known)
    mine = {name: value for name, value in settings.items() if name not in elsewhere}
    try:
        return FitConfig.model_validate(mine)
    except ValidationError as error:
        raise UsageError(explain(error, known)) from error


def _as_in_the_paper(
    config: FitConfig, preset: Mapping[str, Any], given: Mapping[str, Any]
) -> FitConfig:
    """The configuration with what the official code decides, if nothing given says otherwise."""
    _check_in_the_paper(config)
    pinned = set(official.PINNED)
    free = {name: value for name, value in given.items() if name not in pinned}
    exact = _validate({**official.CHOICES, **preset, **free})
    exact = exact.model_copy(update={"views": exact.official_generations})
    others = [
        f"{name} {said(getattr(exact, name))} and not {said(getattr(config, name))}"
        for name in given
        if name in pinned and getattr(config, name) != getattr(exact, name)
    ]
    if others:
        raise UsageError(
            f"--paper-exact means {', '.join(others)}, as {official.SOURCE} has it; leave out what "
            "contradicts it, or leave out --paper-exact"
        )
    return exact


def _check_in_the_paper(config: FitConfig) -> None:
    names = official.paper_presets()
    for what, value, known in (
        ("--preset", config.preset, names),
        ("--method", config.method, official.METHODS),
        ("--shots", config.shots, official.SHOTS),
    ):
        if value not in known:
            listed = ", ".join(map(str, known))
            raise UsageError(f"--paper-exact needs a {what} of the paper, not {value}: {listed}")


def said(value: object) -> str:
    """A value as one would type it."""
    return "none" if value is None else str(value)
