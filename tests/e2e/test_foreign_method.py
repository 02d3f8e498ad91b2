"""A method of another package: installed beside craft-blackbox, it is used like a built-in one.

The package is the one of docs/method.md, built and installed by pip into a folder of its own.
"""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from craft_server.metering.ledger import Ledger
from tests.support.benches import build_photos
from tests.support.paths import ROOT
from tests.support.serving import SCRIPTS, running

PACKAGE = ROOT / "docs" / "examples" / "best_template"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package installed; no network is asked."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(PACKAGE, folder / "source")
    target = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    build = ["--no-build-isolation", "--disable-pip-version-check", "--target", target, source]
    subprocess.run([*map(str, pip), *map(str, build)], check=True, capture_output=True)
    return target


def tuner(environment, *arguments, code=0):
    """`craft-tuner ARGUMENTS` in a process of its own: what it prints, both streams."""
    command = [SCRIPTS / "craft-tuner", *arguments]
    done = subprocess.run(
        list(map(str, command)),
        env=environment | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_is_a_file_of_at_most_sixty_lines():
    assert len((PACKAGE / "best_template.py").read_text().splitlines()) <= 60
    document = (ROOT / "docs" / "method.md").read_text()
    assert "examples/best_template/best_template.py" in document


def test_it_is_listed_with_its_settings_and_its_cost(site):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = tuner(environment, "settings")
    told = "  best_template: the published template with the lowest loss on the shots (queries: 4 "
    assert told in listed
    assert "--best-of [4]  best_template: templates that are tried" in listed
    assert "auto, best_template" in tuner(environment, "fit", "--help")
    assert "best" not in tuner({**os.environ}, "settings").replace("the best that", "")[:400]


@pytest.mark.slow
@pytest.mark.long
def test_it_is_planned_fitted_benched_and_refused_by_the_commands(site, tmp_path):
    photos, run = build_photos(tmp_path / "photos"), tmp_path / "run"
    chosen = ("--data", photos, "--shots", "2", "--method", "best_template")
    with running(tmp_path) as server:
        key = server.mint(30)
        soft = server.mint(30, "--policy", '{"prompt_kinds": ["soft"]}')
        poor = server.mint(4)
        user = {**os.environ, "PYTHONPATH": str(site), "CRAFT_SERVER_URL": server.url}
        mine = user | {"CRAFT_API_KEY": key}

        planned = tuner(mine, "fit", *chosen, "--best-of", "3", "--dry-run")
        assert "fitness           3" in planned
        assert "3 templates x 4 shots" in planned

        few = tuner(user | {"CRAFT_API_KEY": poor}, "fit", *chosen, "--run", run, code=5)
        assert "needs at least 6 queries and the key has 4 left; lower --best-of" in few
        few = tuner(mine, "fit", *chosen, "--budget", "5", "--run", run, code=5)
        assert "raise --budget to at least 6 or lower --best-of" in few
        reported = tuner(user | {"CRAFT_API_KEY": soft}, "fit", *chosen, "--run", run, code=4)
        assert "--method best_template sends text prompts, and this key may send soft" in reported
        wrong = tuner(mine, "fit", *chosen, "--best-of", "0", "--run", run, code=2)
        assert "best_of = 0: Input should be greater than or equal to 1 (best_of is:" in wrong
        wrong = tuner(mine, "fit", *chosen, "--best-off", "2", "--run", run, code=2)
        assert "no setting is called best_off; did you mean best_of?" in wrong
        assert not run.exists()
        assert spent(server) == 0

        by_variable = mine | {"CRAFT_FIT_BEST_OF": "3"}
        assert "best_of 3 instead of 4 (by the environment)" in tuner(
            by_variable, "fit", *chosen, "--run", run
        )
        result = json.loads((run / "result.json").read_text())
        assert (result["method"], result["spent_total"]["queries"]) == ("best_template", 3 + 2)
        assert json.loads((run / "config.json").read_text())["config"]["best_of"] == 3
        card = json.loads((run / "adapter.json").read_text())
        assert len(card["templates"]) == 1
        assert len(card["training"]["losses"]) == 3
        tuner(mine, "fit", "--resume", run)
        assert spent(server) == 5
        gone = tuner({**mine, "PYTHONPATH": ""}, "fit", "--resume", run, code=7)
        assert "--method best_template, which is not installed here" in gone

        out = tmp_path / "bench"
        grid = ("--shots", "2", "--seeds", "1", "--methods", "zero_shot,best_template")
        more = ("--set", "best_of=2", "--set", "spsa_pairs=3", "--jobs", "1", "--out", out)
        table = tuner(mine, "bench", "--data", photos, *grid, *more)
        assert "| best_template |" in table
        with (out / "cells.csv").open() as file:
            cells = {row["method"]: row for row in csv.DictReader(file)}
        assert {name: row["state"] for name, row in cells.items()} == {
            "zero_shot": "done",
            "best_template": "done",
        }
        assert cells["best_template"]["queries"] == str(2 + 2)


def spent(server):
    """Queries of all keys, by the ledger."""
    store = server.store()
    totals = Ledger(store).totals()
    store.close()
    return sum(counters.queries for counters in totals.values())
