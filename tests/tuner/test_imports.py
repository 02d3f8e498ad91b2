"""What the tuner must not load: a fresh interpreter tells."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

LIGHT = [
    "craft_tuner.adapter.adapter",
    "craft_tuner.search.cma_es",
    "craft_tuner.config.fit_config",
    "craft_tuner.plan",
    "craft_tuner.runs.run",
    "craft_tuner.methods.loop",
    "craft_tuner.runs.diagnostics",
    "craft_tuner.methods",
    "craft_tuner.methods.bbt",
    "craft_tuner.methods.spsa",
    "craft_tuner.methods.zip",
    "craft_tuner.methods.zero_shot",
    "craft_tuner.methods.template_ensemble",
    "craft_tuner.methods.text_search",
    "craft_tuner.config.explain",
]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_listing_methods_and_their_settings_loads_no_torch() -> None:
    listing = "for name in methods.names(): methods.get(name)\nfields()"
    imports = "from craft_tuner import methods\nfrom craft_tuner.config.fit_config import fields"
    assert "torch" not in loaded_by(f"{imports}\n{listing}")


def test_applying_and_searching_load_no_torch() -> None:
    found = loaded_by("\n".join(f"import {module}" for module in LIGHT))
    assert "craft_tuner" in found
    assert not found & {"torch", "open_clip", "torchvision", "fastapi", "craft_server"}


def test_the_package_itself_loads_nothing() -> None:
    found = loaded_by("import craft_tuner")
    assert not found & {"numpy", "pydantic", "sklearn", "torch", "httpx", "PIL", "typer", "rich"}


def test_the_classifier_loads_no_torch_before_it_fits() -> None:
    found = loaded_by("from craft_tuner import CraftClassifier")
    assert "sklearn" in found
    assert not found & {"torch", "matplotlib", "open_clip", "torchvision", "craft_server"}


@pytest.mark.parametrize("forbidden", ["open_clip", "torchvision", "fastapi", "craft_server"])
def test_craft_loads_torch_and_nothing_of_the_server(forbidden: str) -> None:
    found = everything()
    assert "torch" in found
    assert forbidden not in found


def everything() -> set[str]:
    if not _EVERYTHING:
        _EVERYTHING.update(loaded_by("import craft_tuner.methods.head_trainer"))
    return _EVERYTHING


_EVERYTHING: set[str] = set()
