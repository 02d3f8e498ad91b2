"""Presets are the official configurations, and `paper_exact` pins every official choice."""

import re

import pytest

from craft_tuner.config import presets as official
from craft_tuner.config.fit_config import build, fields
from craft_tuner.data.benchmarks import BENCHMARKS
from craft_tuner.errors import UsageError
from craft_tuner.plan import Workload, plan_generations
from tests.support.paths import ROOT

# mrflogs/CraFT @1a4c251, craft_configs/*.yaml: std, sigma, bound (0 is none), weight, n and
# batch_size. fgvc.yaml is here as CoOp calls the dataset. ImageNet's std is a dead key: its script
# draws the projection as nn.Linear does (main_craft_imagenet.py:88).
CONFIGS = {
    "caltech101": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "oxford_pets": (0.2, 0.02, 5.0, 0.1, 1, 64),
    "stanford_cars": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "oxford_flowers": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "food101": (0.2, 1.0, None, 1.0, 1, 256),
    "fgvc_aircraft": (0.2, 0.02, None, 0.1, 4, 256),
    "sun397": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "dtd": (1.0, 0.02, 5.0, 0.001, 1, 256),
    "eurosat": (1.0, 0.02, 5.0, 0.01, 1, 256),
    "ucf101": (0.2, 1.0, 5.0, 0.1, 4, 256),
    "imagenet": (None, 1.0, None, 0.0, 1, 256),
    "imagenet_robustness": (None, 1.0, None, 0.0, 1, 256),
}
IMAGENETS = ("imagenet", "imagenet_robustness")

# main_craft.py:257-262, main_craft_imagenet.py:262-267, main_craft_imagenet_robustness.py:257.
BUDGETS = {
    "imagenet": {1: 2000, 2: 4000, 4: 4000, 8: 4000, 16: 4000},
    "imagenet_robustness": dict.fromkeys((1, 2, 4, 8, 16), 2000),
}
OTHER_BUDGETS = {1: 2000, 2: 4000, 4: 4000, 8: 8000, 16: 8000}

SCRIPT = {  # main_craft.py
    "context": "a photo of a",  # 58
    "suffix": ".",  # 92
    "context_tokens": None,  # 66: its words, 4
    "intrinsic_dim": 512,  # every yaml
    "population": 40,  # every yaml
    "step_size": "csa",  # pycma before 4.5
    "projection": "normal",  # 86
    "head_context": "resampled",  # 157-160
    "head_hidden": 256,  # 186
    "head_depth": 2,  # 185-189
    "optimiser": "adam",  # 191
    "lr": 1e-3,  # every yaml
    "crop_scale": (0.5, 1.0),  # 22
    "flip": True,  # 23
    "fitness_view": "augmented",  # 184, 55
    "sampling": "craft",  # datasets/utils.py
    "dtype": "float32",
}
IMAGENET_SCRIPT = SCRIPT | {  # main_craft_imagenet.py
    "projection": "uniform",  # 88
    "head_context": "best",  # 165
    "head_hidden": 512,  # 192
    "crop_scale": (0.08, 1.0),  # datasets/imagenet.py, train_preprocess
}


def official_settings(name: str, shots: int) -> dict[str, object]:
    """Every setting that the official code decides, as the tables above have it."""
    std, sigma, bound, weight, n, batch = CONFIGS[name]
    script = IMAGENET_SCRIPT if name in IMAGENETS else SCRIPT
    budget = BUDGETS.get(name, OTHER_BUDGETS)[shots]
    reported = {
        **script,
        "sigma": sigma,
        "bound": bound,
        "kl_weight": weight,
        "kl_fraction": n,
        "batch_size": batch,
        "views": budget // 40,
    }
    return reported if std is None else {**reported, "std": std}


def test_every_dataset_of_the_paper_has_a_preset_and_the_demo_one() -> None:
    assert set(official.paper_presets()) == set(CONFIGS)
    assert set(official.preset_names()) == {*CONFIGS, "digits"}
    assert {*CONFIGS} - {"imagenet_robustness"} | {*official.SHIFTED} == {*BENCHMARKS}


def test_presets_set_only_settings() -> None:
    for name in official.preset_names():
        assert set(official.load_preset(name)) <= set(fields())
        assert build({"preset": name}).preset == name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_preset_is_its_official_configuration(name: str) -> None:
    # decisions 0001, 0004, 0017, 0002, 0031
    ours = {"head_context", "fitness_view", "sampling", "views", "dtype"}
    for shots in official.SHOTS:
        config = build({"preset": name, "shots": shots})
        for setting, value in official_settings(name, shots).items():
            assert setting in ours or getattr(config, setting) == value, setting
        assert config.paper_budget == BUDGETS.get(name, OTHER_BUDGETS)[shots]


@pytest.mark.parametrize("name", CONFIGS)
def test_paper_exact_pins_every_official_choice(name: str) -> None:
    for shots in official.SHOTS:
        config = build({"preset": name, "shots": shots, "seed": 3, "paper_exact": True})
        wanted = official_settings(name, shots)
        assert {setting: getattr(config, setting) for setting in wanted} == wanted
        assert {*wanted, "budgets", "std"} == {*official.PINNED}
        assert (config.seed, config.shots) == (3, shots)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma": 0.5}, "--paper-exact means sigma 1.0 and not 0.5, as mrflogs/CraFT @1a4c251"),
        ({"sigma": 0.5, "bound": "none"}, "sigma 1.0 and not 0.5, bound 5.0 and not none, as"),
        ({"views": 8}, "views 200 and not 8"),
        ({"head_context": "mean"}, "head_context resampled and not mean"),
        ({"preset": "digits"}, "--paper-exact needs a --preset of the paper, not digits: caltech"),
        ({"preset": None}, "needs a --preset of the paper, not None"),
        ({"shots": 3}, "needs a --shots of the paper, not 3: 1, 2, 4, 8, 16"),
    ],
)
def test_what_contradicts_paper_exact_is_refused_by_name(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        build({"preset": "caltech101", "paper_exact": True}, settings)


def test_what_agrees_with_paper_exact_may_be_said_and_the_rest_is_free() -> None:
    layers = {"preset": "dtd", "paper_exact": True}, {"sigma": 0.02, "step_size": "csa"}
    config = build(*layers, {"budget": 8202, "seed": 2, "validation_folds": 0})
    assert (config.budget, config.seed, config.validation_folds) == (8202, 2, 0)


def test_paper_exact_fits_the_official_generations_where_the_budget_allows() -> None:
    work = Workload(47, 752, test_images=1692, test_sets=1)
    exact = {"preset": "dtd", "paper_exact": True}
    generations = [
        plan_generations(build(exact, {"budget": budget}), work, head_queries=1).generations
        for budget in (8000, 8202, 9000)
    ]
    assert generations == [195, 200, 200]


@pytest.mark.parametrize("name", official.SHIFTED)
def test_a_shifted_test_set_has_no_preset_and_the_refusal_says_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no shots.*imagenet_robustness.*coop:{name}@"):
        build({"preset": name})


def test_each_remaining_deviation_has_a_record() -> None:
    records = {path.name[:4] for path in (ROOT / "docs" / "decisions").iterdir()}
    assert {deviation.record for deviation in official.REMAINING} <= records
