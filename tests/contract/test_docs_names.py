"""Files and dotted names that the documents mention exist, and no name fits two files."""

import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/decisions/*.md"))]
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FOLDERS = ("docs/examples", "server", "tuner", "shared", "scripts", "benchmarks", "tests")
FOREIGN = re.compile(r"(main_craft\w*|datasets/\w+|track_\w+)\.py")
"""Files of the paper's code, and a reader's own."""


def find_files(text: str) -> set[str]:
    """Paths of Python files, wherever they stand."""
    paths = re.findall(r"(?<![\w/-])\w[\w./-]*\.py\b", text)
    return {path for path in paths if not FOREIGN.fullmatch(path)}


def find_dotted(text: str) -> set[str]:
    """Dotted names of the three packages."""
    return set(re.findall(r"\bcraft_(?:server|tuner|shared)(?:\.[A-Za-z_]\w*)+", text))


def is_one_file(path: str) -> bool:
    """Whether `path` is the end of exactly one file's path."""
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob(Path(path).name))
    return sum(f"/{file.relative_to(ROOT)}".endswith(f"/{path}") for file in files) == 1


def is_object(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.parametrize(
    ("find", "exists"),
    [(find_files, is_one_file), (find_dotted, is_object)],
    ids=["files", "names"],
)
def test_what_a_page_names_exists(
    page: Path, find: Callable[[str], set[str]], exists: Callable[[str], bool]
) -> None:
    assert sorted(name for name in find(page.read_text()) if not exists(name)) == []


def test_functions_of_the_paper_map_exist() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text()
    names = set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]\w*)+)`", text)) - {"random.sample"}
    names = {name for name in names if not name.endswith(".py")}
    assert len(names) > 20
    assert sorted(name for name in names if not is_object(f"craft_tuner.{name}")) == []
