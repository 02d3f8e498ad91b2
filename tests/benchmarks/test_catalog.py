"""The list of benchmarks is whole: each is found, says what it is, and reads its command line."""

import importlib
import re
import subprocess
import sys

import pytest

from benchmarks.__main__ import arguments_of, listing, refusal
from benchmarks.catalog import BENCHMARKS, GROUPS
from tests.support.paths import ROOT


def programs():
    """Modules whose documents say `python -m benchmarks NAME`, and the names."""
    for file in sorted((ROOT / "benchmarks").glob("[asr]*/*.py")):
        for name in re.findall(
            r"^ +python -m benchmarks ([a-z0-9-]+)", file.read_text(), re.MULTILINE
        ):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts), name


def test_every_module_that_says_how_it_is_run_is_in_the_catalog():
    wanted = {(each.module, each.name) for each in BENCHMARKS.values()}
    assert set(programs()) <= wanted


def test_names_are_given_once():
    assert len(BENCHMARKS) == sum(map(len, GROUPS.values()))
    assert not set(BENCHMARKS) & set(GROUPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_its_command_line_takes_the_options_that_the_catalog_gives(name, monkeypatch, capsys):
    arguments = arguments_of(BENCHMARKS[name], [])
    monkeypatch.setattr(sys, "argv", [*arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(BENCHMARKS[name].module).main()
    assert ended.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_figures_go_to_a_file_of_its_name_by_default():
    text, growth = BENCHMARKS["text"], BENCHMARKS["growth"]
    assert arguments_of(text, ["--json=x"])[1:] == ["--json=x"]
    assert arguments_of(growth, [])[1:] == ["--growth", "--json", "bench/growth.json"]


def test_the_listing_has_every_summary():
    said = listing()
    for each in BENCHMARKS.values():
        assert each.summary
        assert each.summary in said


@pytest.mark.slow
def test_an_unknown_name_is_refused_with_the_near_ones():
    assert "did you mean faults" in refusal("fault")
    assert "lists them" in refusal("zzz")
    command = [sys.executable, "-m", "benchmarks", "fault"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no benchmark is named 'fault'" in done.stderr
