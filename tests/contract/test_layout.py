"""The tests lie as the packages do."""

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize("name", ["server", "tuner", "shared"])
def test_every_folder_of_tests_is_named_after_a_package(name):
    package = ROOT / name / f"craft_{name}"
    folders = {
        file.parent.relative_to(ROOT / "tests" / name)
        for file in (ROOT / "tests" / name).rglob("test_*.py")
    }
    assert folders
    assert [folder for folder in folders if not (package / folder / "__init__.py").exists()] == []
