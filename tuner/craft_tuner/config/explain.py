"""Where the settings of a fit come from, in words, for the user who starts one."""

from collections.abc import Mapping, Sequence
from typing import Any

from craft_tuner.config import presets
from craft_tuner.config.fit_config import FitConfig, build, fields, said

Origins = Mapping[str, str]
"""Who set a setting, by its name."""


def origins(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Who set each setting: of several layers (who, settings), the last one that has it."""
    return {name: who for who, settings in layers for name in settings}


def sentences(config: FitConfig, who: Origins | None = None) -> list[str]:
    """The preset, what was overridden and by whom, and what is still not as in the paper.

    Args:
        config: of the fit.
        who: from `origins`; None where nobody knows any more, as in a run that goes on.
    """
    found = [_preset(config), _overridden(config, who or {})]
    return found + (_exactness(config) if config.paper_exact else [])


def _preset(config: FitConfig) -> str:
    if config.preset is None:
        return "no preset: method auto; other methods have the paper's settings for caltech101"
    settings = presets.load_preset(config.preset)
    values = [f"{name} {said(value)}" for name, value in settings.items() if name != "preset"]
    return f"preset {config.preset}: {', '.join(values)}"


def _overridden(config: FitConfig, who: Origins) -> str:
    names = ("preset", "paper_exact") if config.paper_exact else ("preset",)
    base = build({name: getattr(config, name) for name in names if getattr(config, name)})
    pinned = {*presets.PINNED} if config.paper_exact else set()
    before = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields(config.method).items()
    }
    before |= base.model_dump()
    changed = [
        f"{name} {said(getattr(config, name))} instead of {said(value)}"
        + (f" (by {who[name]})" if name in who else "")
        for name, value in before.items()
        if name not in {*names, *pinned} and getattr(config, name) != value
    ]
    return f"overridden: {', '.join(changed) or 'nothing'}"


def _exactness(config: FitConfig) -> list[str]:
    full = config.paper_budget + config.official_generations + 2
    enough = f"all {config.official_generations} official generations need --budget {full}"
    return [
        f"paper-exact: as {presets.SOURCE} has it, but for what no black box permits:",
        *(f"  decision {record}: {sentence}" for record, sentence in presets.REMAINING),
        f"  {enough}, or more where shots or test images are several image sets",
    ]
