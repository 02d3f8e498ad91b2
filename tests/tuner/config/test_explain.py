"""At the start of a fit people read which preset it has, what was overridden, and by whom."""

from craft_tuner.config import explain as choices
from craft_tuner.config import presets as official
from craft_tuner.config.fit_config import build


def test_the_preset_and_who_overrode_it_are_reported() -> None:
    layers = [
        ("the file x.toml", {"preset": "dtd", "sigma": 0.1, "lr": 0.01}),
        ("the environment", {"sigma": 0.2, "seed": 1}),
        ("flag", {"sigma": 0.5, "bound": "none"}),
    ]
    config = build(*(layer for _, layer in layers))
    preset, overridden = choices.sentences(config, choices.origins(layers))
    assert preset == (
        "preset dtd: method craft, projection normal, std 1.0, sigma 0.02, bound 5.0, "
        "kl_weight 0.001, kl_fraction 1, batch_size 256"
    )
    assert overridden == (
        "overridden: sigma 0.5 instead of 0.02 (by flag), bound none instead of 5.0 (by flag), "
        "lr 0.01 instead of 0.001 (by the file x.toml)"
    )


def test_without_a_preset_and_without_knowing_who_it_is_reported_as_well() -> None:
    assert choices.sentences(build({"shots": 4})) == [
        "no preset: method auto; other methods have the paper's settings for caltech101",
        "overridden: shots 4 instead of 16",
    ]
    assert build({"preset": "caltech101"}) == build({"method": "craft"}).model_copy(
        update={"preset": "caltech101"}
    )
    assert choices.sentences(build())[1] == "overridden: nothing"


def test_paper_exact_tells_what_still_differs() -> None:
    config = build({"preset": "caltech101", "paper_exact": True, "shots": 4})
    reported = choices.sentences(config, {"shots": "flag"})
    assert reported[1] == "overridden: shots 4 instead of 16 (by flag)"
    assert reported[2].startswith("paper-exact: as mrflogs/CraFT @1a4c251 has it, but for")
    for (record, sentence), line in zip(official.REMAINING, reported[3:], strict=False):
        assert line == f"  decision {record}: {sentence}"
    assert "all 100 official generations need --budget 4102" in reported[-1]
