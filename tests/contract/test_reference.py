"""docs/reference/ is what the code says, and every setting and command is described."""

import subprocess
import sys

from craft_server.settings import Settings
from tests.support.paths import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_the_reference_is_fresh(tmp_path):
    command = [sys.executable, "-m", "scripts.write_reference", tmp_path]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in REFERENCE.iterdir()}
    assert fresh.keys() == kept.keys()
    for name, text in fresh.items():
        assert kept[name] == text, f"docs/reference/{name} is stale: run `make docs`"


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
