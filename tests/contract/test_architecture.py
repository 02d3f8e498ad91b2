"""The pictures in docs/architecture.md are what the lint checks."""

from scripts import write_architecture
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"


def test_the_pictures_are_fresh() -> None:
    text = PAGE.read_text()
    assert write_architecture.page(text) == text, "docs/architecture.md is stale: run `make docs`"


def test_the_page_begins_with_a_picture() -> None:
    head = PAGE.read_text().partition("┌")[0]
    assert write_architecture.BEGIN in head
    assert len(head.splitlines()) <= 10


def test_packages_stand_in_boxes_layer_over_layer() -> None:
    drawn = list(write_architecture.picture([["over"], ["left", "right"], ["under"]]))
    assert {len(line) for line in drawn} == {write_architecture.WIDTH}
    assert [line.strip("│ ").split() for line in drawn[1::2]] == [
        ["over"],
        ["left", "│", "right"],
        ["under"],
    ]
    assert ["┬" in line for line in drawn[::2]] == [False, True, False, False]
    assert ["┴" in line for line in drawn[::2]] == [False, False, True, False]
