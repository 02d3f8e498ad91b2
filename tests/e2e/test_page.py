"""The page of runs in a real browser: wide, narrow, dark and printed."""

import re

import pytest

from craft_tuner.report import compare
from tests.support.chromium import Chromium, find_chromium
from tests.support.tuner_pages import a_run

WIDE, NARROW = 1280, 375
PROGRAM = find_chromium()

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here; `make page-test` installs one and runs this"
)

MINUS = "\N{MINUS SIGN}"
PAGES = [
    *("one", "three", "six", "at work"),
    *("untested", "one image", "many classes", "zero-shot", "two data"),
]
LONG = "an extraordinarily-long-class-name_that_no_line_of_a_telephone_has_room_for"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of pages: of one run, of three with awkward names, of six, of one at work, ..."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("猫", LONG, "<b>ox</b> & 'x'")
    three = [a_run(folder / f"{LONG}-{n}", names=names, seed=n, sigma=n / 2) for n in (1, 2, 3)]
    six = [a_run(folder / f"run {n}", names=[f"class {k}" for k in range(20)]) for n in range(6)]
    made = {
        "one": [a_run(folder / "one")],
        "three": three,
        "six": six,
        "at work": [a_run(folder / "at work", finished=False)],
        "untested": [a_run(folder / "untested", tested=False)],
        "one image": [a_run(folder / "one image", names=["cat"], per_class=1)],
        "many classes": [a_run(folder / "many", names=[f"class {k}" for k in range(200)])],
        "zero-shot": [
            a_run(folder / "zero", method="zero_shot", rights=(0.5, None, None), generations=0)
        ],
        "two data": [a_run(folder / data, data=f"/{data}", names=names) for data in ("a", "b")],
    }
    return {name: compare(runs, folder / f"{name}.html").as_uri() for name, runs in made.items()}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_fetches_nothing_and_has_nothing_to_say(browser, pages, name, width, dark):
    browser.open(pages[name], width=width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("innerWidth") == width
    assert browser.fetched() == [pages[name]]
    assert browser.complaints() == []
    assert browser.value("document.compatMode") == "CSS1Compat"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_ground_and_letters_follow_the_reader_and_contrast(browser, pages, dark):
    browser.open(pages["three"], width=WIDE, dark=dark)
    ground = luminance(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.05) if dark else (ground > 0.9)
    colours = browser.value(
        "[...new Set([...document.querySelectorAll('h1, p, td, th, caption, dd, span, text, path')]"
        ".filter(e => !['svg', 'path'].includes(e.tagName) || e.closest('.legend'))"
        ".map(e => getComputedStyle(e)[e.tagName == 'path' ? 'stroke' : "
        "e.tagName == 'text' ? 'fill' : 'color']))].filter(c => c.startsWith('rgb'))"
    )
    assert len(colours) >= 3
    for colour in colours:
        assert contrast(luminance(colour), ground) >= 4.5, colour


def test_every_image_has_loaded_and_has_words(browser, pages):
    browser.open(pages["three"], width=WIDE)
    images = browser.value("[...document.images].map(i => [i.alt, i.complete, i.naturalWidth])")
    assert images
    assert all(alt and complete and width for alt, complete, width in images)
    unnamed = "document.querySelectorAll('svg:not([aria-hidden]), figure:not([aria-label])').length"
    assert browser.value(unnamed) == 0


def test_what_a_reader_without_eyes_meets_has_names(browser, pages):
    browser.open(pages["three"], width=WIDE)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in nodes
        if not node.get("ignored")
    ]
    kinds = {role for role, _ in named}
    assert {"heading", "table", "rowheader", "columnheader", "image", "main"} <= kinds
    speaking = {"heading", "table", "image", "region", "rowheader"}
    assert [node for node in named if node[0] in speaking and not node[1]] == []


def test_names_of_classes_stay_text(browser, pages):
    browser.open(pages["three"], width=WIDE)
    heads = browser.value("[...document.querySelectorAll('tbody th')].map(e => e.textContent)")
    assert {"猫", LONG, "<b>ox</b> & 'x'"} <= set(heads)
    assert browser.value("document.querySelectorAll('th b, td b').length") == 0


def test_wide_tables_scroll_by_themselves_and_by_keyboard(browser, pages):
    browser.open(pages["six"], width=NARROW)
    found = browser.value(
        "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => [e.tabIndex, e.getAttribute('role'), getComputedStyle(e).overflowX])"
    )
    assert found
    assert all(each == [0, "region", "auto"] for each in found)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_no_section_is_empty_and_the_verdict_stands_first(browser, pages, name, width):
    browser.open(pages[name], width=width)
    empty = browser.value(
        "[...document.querySelectorAll('section, figure, table, ul, pre')]"
        ".filter(e => !e.closest('details:not([open])'))"
        ".map(e => [e.tagName, e.getBoundingClientRect().height, e.innerText.trim().length])"
        ".filter(([tag, height, text]) => !(height > 15 && (text || tag == 'FIGURE')))"
    )
    assert empty == []
    first = browser.value("document.querySelector('main').firstElementChild.className")
    assert first in {"verdict", "verdicts"}
    top = browser.value(
        "document.querySelector('main').firstElementChild.getBoundingClientRect().y"
    )
    assert top < 200


def test_a_table_of_classes_is_sorted_by_a_click_and_by_keyboard(browser, pages):
    browser.open(pages["many classes"], width=NARROW)
    column = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[{}].innerText)"
    button = "document.querySelectorAll('.sortable thead button')"
    heads = browser.value(f"[...{button}].map(b => b.innerText)")
    assert heads[:2] == ["class", "images"]
    gain = len(heads) - 1
    browser.value(f"{button}[{gain}].click()")
    down = [float(text.replace(MINUS, "-")) for text in browser.value(column.format(gain))]
    assert down == sorted(down, reverse=True)
    assert browser.value(f"{button}[{gain}].parentNode.getAttribute('aria-sort')") == "descending"
    browser.value(f"{button}[{gain}].focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", code="Enter",
                     windowsVirtualKeyCode=13)  # fmt: skip
    up = [float(text.replace(MINUS, "-")) for text in browser.value(column.format(gain))]
    assert up == sorted(up)
    browser.value(f"{button}[0].click()")
    assert browser.value(column.format(0)) == [f"class {index}" for index in range(200)]
    assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1
    box = "document.querySelector('.tall')"
    assert browser.value(f"{box}.scrollHeight > {box}.clientHeight")
    assert browser.complaints() == []


def test_without_script_it_is_a_table(browser, pages):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["many classes"], width=WIDE)
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.value("document.querySelectorAll('.sortable tbody tr').length") == 200
    assert browser.value("document.querySelectorAll('button').length") == 0


def test_print_is_light_and_opens_what_is_folded(browser, pages):
    browser.open(pages["six"], width=WIDE)
    browser.send("Emulation.setEmulatedMedia", media="print")
    shown = browser.value("getComputedStyle(document.body).backgroundColor")
    assert luminance(shown) > 0.9
    content = "getComputedStyle(document.querySelector('details'), '::details-content')"
    assert browser.value(f"{content}.contentVisibility") == "visible"


def test_the_browser_would_tell(browser, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(
        "<img src='http://127.0.0.1:9/x'><p style='width: 999px'>x<script>oh()</script>"
    )
    browser.open(file.as_uri(), width=NARROW)
    assert browser.value("document.documentElement.scrollWidth") > NARROW
    assert "http://127.0.0.1:9/x" in browser.fetched()
    assert any("oh is not defined" in str(each) for each in browser.complaints())


def luminance(colour):
    """Relative luminance (WCAG 2.2) of a CSS colour as browsers compute it."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lighter, darker = max(one, other), min(one, other)
    return (lighter + 0.05) / (darker + 0.05)
