"""Settings are one frozen value; presets are the paper's; every refusal says what to do."""

import re

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import ValidationError

from craft_tuner.config import FitConfig, build, load_preset, preset_names
from craft_tuner.errors import UsageError

PAPER = {  # craft_configs/*.yaml: std, sigma, bound, w, n, batch
    "caltech101": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "oxford_flowers": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "stanford_cars": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "sun397": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "ucf101": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "food101": (0.2, 1.0, None, 1.0, 1, 256),
    "dtd": (1.0, 0.02, 5.0, 0.001, 1, 256),
    "eurosat": (1.0, 0.02, 5.0, 0.01, 1, 256),
    "fgvc_aircraft": (0.2, 0.02, None, 0.1, 4, 256),
    "oxford_pets": (0.2, 0.02, 5.0, 0.1, 1, 64),
}


@pytest.mark.parametrize(("name", "row"), PAPER.items())
def test_presets_are_the_official_configs(name: str, row: tuple[object, ...]) -> None:
    config = build({"preset": name})
    found = (
        config.std,
        config.sigma,
        config.bound,
        config.kl_weight,
        config.kl_fraction,
        config.batch_size,
    )
    assert found == row
    assert config.projection == "normal"
    assert (config.population, config.intrinsic_dim, config.lr) == (40, 512, 1e-3)
    assert (config.head_hidden, config.head_depth, config.optimiser) == (256, 2, "adam")


def test_imagenet_preset_is_the_imagenet_script() -> None:
    config = build({"preset": "imagenet"})
    assert (config.projection, config.head_context, config.head_hidden) == ("uniform", "best", 512)
    assert (config.sigma, config.bound, config.kl_weight) == (1.0, None, 0.0)
    budgets = [build({"preset": "imagenet", "shots": s}).paper_budget for s in (1, 2, 4, 8, 16)]
    assert budgets == [2000, 4000, 4000, 4000, 4000]


def test_every_dataset_of_the_paper_and_the_demo_has_a_preset() -> None:
    assert set(preset_names()) == {*PAPER, "imagenet", "digits"}
    for name in preset_names():
        assert build({"preset": name}).preset == name


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
    for name, field in FitConfig.model_fields.items():
        assert field.description, name
        if field.annotation in (int, float, int | None):
            kinds = {type(item) for item in field.metadata}
            assert Le in kinds, f"{name} has no upper bound"
            assert kinds & {Ge, Gt} or name == "seed", f"{name} has no lower bound"


def test_presets_set_only_settings() -> None:
    for name in preset_names():
        assert set(load_preset(name)) <= set(FitConfig.model_fields)
