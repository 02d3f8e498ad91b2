"""Settings are one frozen value; every refusal says what to do."""

import copy
import pickle
import re
import sys
import uuid
from types import ModuleType

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import Field, ValidationError

from craft_tuner import method_registry
from craft_tuner.config.fit_config import FitConfig, build, every_field, fields
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.errors import UsageError
from craft_tuner.methods.zip import ZipSettings


@pytest.mark.parametrize(
    ("shots", "budget"), [(1, 2000), (2, 4000), (4, 4000), (8, 8000), (16, 8000), (100, 8000)]
)
def test_budget_by_shots_is_the_papers(shots: int, budget: int) -> None:
    assert build({"shots": shots}).paper_budget == budget


def test_budgets_may_stand_in_any_order_and_the_smallest_serves_fewer_shots() -> None:
    pairs = [[4, 50], [16, 90]]
    budgets = [build({"shots": s, "budgets": pairs}).paper_budget for s in (1, 4, 15, 16, 99)]
    assert budgets == [50, 50, 50, 90, 90]


def test_later_layers_win_and_the_preset_goes_below_all() -> None:
    config = build({"preset": "dtd", "sigma": 0.5}, {"sigma": 0.25, "seed": 3})
    assert (config.sigma, config.std, config.seed) == (0.25, 1.0, 3)


def test_the_word_none_stands_for_no_bound() -> None:
    assert build({"bound": "none"}).bound is None
    assert build({"bound": "None"}).bound is None


def test_config_survives_json() -> None:
    config = build({"preset": "food101", "crop_scale": (0.3, 0.9)})
    assert FitConfig.model_validate_json(config.model_dump_json()) == config


def test_config_survives_pickling_and_copying(foreign: str) -> None:
    for config in (build({"preset": "dtd", "zip_pairs": 7}), build({"method": foreign})):
        read = pickle.loads(pickle.dumps(config))
        assert (read, type(read)) == (config, type(config))
        assert copy.deepcopy(config) == config


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        build().sigma = 2.0  # type: ignore[misc]


def test_context_tokens_default_to_words() -> None:
    assert build().n_ctx == 4
    assert build({"context": "a blurry photo of a"}).n_ctx == 5
    assert build({"context": "zyzzyva", "context_tokens": 3}).n_ctx == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 0}, "seed = 0: seeds start at 1, because pycma takes 0 as 'seed from the clock'"),
        ({"seed": -4}, "seeds start at 1"),
        ({"stepsize": "csa"}, "no setting is called stepsize; did you mean step_size?"),
        ({"qqq": 1}, "no setting is called qqq; there are: preset, method, shots"),
        ({"sigma": -1}, "sigma = -1: Input should be greater than 0 (sigma is: initial step"),
        ({"sigma": float("nan")}, "sigma = nan"),
        ({"bound": 0}, "bound = 0: Input should be greater than 0 (bound is: z stays in"),
        ({"sigma": 4.0, "bound": 5.0}, "lower sigma or widen bound"),
        ({"head_depth": 4}, "head_depth = 4"),
        ({"validation_folds": 1}, "use 0 or at least 2"),
        ({"crop_scale": (0.9, 0.5)}, "needs 0 < smallest <= largest <= 1"),
        ({"method": "magic"}, "method = 'magic'"),
        ({"head_context": "resampled", "step_size": "tpa"}, "needs step_size 'csa'"),
        ({"preset": "cifar"}, "preset 'cifar' does not exist; there are: caltech101, digits"),
        ({"sigma": -1, "std": 0}, "; std = 0"),
    ],
)
def test_bad_settings_are_refused_in_words(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        build(settings)


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for name, field in fields().items():
        assert field.description, name
        if field.annotation in (int, float, int | None):
            kinds = {type(item) for item in field.metadata}
            assert Le in kinds, f"{name} has no upper bound"
            assert kinds & {Ge, Gt} or name == "seed", f"{name} has no lower bound"


def test_a_configuration_has_the_settings_of_every_built_in_method_however_it_is_made() -> None:
    made = (FitConfig(), build(), FitConfig.model_validate({}))
    assert made[0] == made[1] == made[2]
    assert [*made[0].model_dump()] == [name for name in fields() if name != "validation"]
    assert [*build({"validation": "split"}).model_dump()] == [*fields()]
    assert made[0].of(ZipSettings).zip_pairs == 5
    assert FitConfig.model_validate_json('{"zip_pairs": 7}').of(ZipSettings).zip_pairs == 7


def test_settings_stand_where_adapters_of_version_0_1_have_them() -> None:
    names = [*fields()]
    assert names.index("spsa_pairs") == names.index("kl_fraction") + 1
    assert names.index("zip_intrinsic_dim") == names.index("spsa_gamma") + 1
    assert names.index("dtype") == names.index("zip_gamma") + 1
    last = ["head_epochs", "bank_prompts", "bank_names", "bank_std", "prompts_per_image"]
    assert names[-7:] == [*last, "text_beam", "text_words"]


class Margin(MethodSettings):
    """Settings of a package that is not here."""

    margin: float = Field(0.5, gt=0, le=1, description="foreign: how far")


class Foreign:
    """What is read of its method."""

    settings = Margin


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of another package, and one that cannot be imported."""
    name = f"foreign_{uuid.uuid4().hex}"  # what is known of a name is cached
    points = {name: f"{__name__}:Foreign", "broken": "nowhere_at_all:Method"}
    monkeypatch.setattr(method_registry, "installed", lambda: points)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or ModuleType(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Foreign", Foreign, raising=False)
    return name


def test_a_foreign_methods_settings_are_those_of_its_own_fits(foreign: str) -> None:
    mine = build({"method": foreign, "margin": 0.25})
    assert mine.of(Margin).margin == 0.25
    assert [*mine.model_dump()][-1] == "margin"
    with pytest.raises(UsageError, match=r"margin = 2: .* less than or equal to 1"):
        build({"method": foreign, "margin": 2})
    assert every_field()["margin"].default == 0.5
    assert "margin" not in build({"method": "bbt", "margin": 0.25}).model_dump()
    with pytest.raises(TypeError, match="the configuration of bbt has no Margin"):
        build({"method": "bbt"}).of(Margin)


def test_a_package_that_cannot_be_imported_is_named_and_hides_no_other(foreign: str) -> None:
    with pytest.raises(UsageError, match=r"method 'broken' .*cannot be imported: ModuleNotFound"):
        build({"method": "broken"})
    assert build({"method": foreign}).method == foreign
    with pytest.raises(UsageError, match=f"method = 'magic': it does not exist; .*auto, {foreign}"):
        build({"method": "magic"})
