"""Write the pictures at the head of docs/architecture.md, from the contracts and docstrings.

    python -m scripts.write_architecture docs/architecture.md

A test compares the page with what this writes, so that the pictures stay what the lint checks.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"craft_server": "server", "craft_tuner": "tuner", "craft_shared": "shared"}
BEGIN = "<!-- The packages: written by `make docs` from pyproject.toml and docstrings. -->\n"
END = "<!-- The end of the packages. -->\n"
WIDTH = 76
"""Columns of a picture."""


def page(text: str) -> str:
    """A page's text with its packages written anew; ValueError without the two markers."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + "\n".join(packages()) + END + tail


def packages() -> Iterator[str]:
    """For each contract on layers: its name, a picture, and a table of the packages."""
    for name, folder, layers in contracts():
        yield f"\n## {name}\n\n```text"
        yield from picture(layers)
        yield "```\n\n| package | |\n| --- | --- |"
        for package in (package for layer in layers for package in layer):
            path = source(folder, package)
            yield f"| [`{package}`](../{path.relative_to(ROOT)}) | {sentence(path)} |"
    yield ""


def contracts() -> Iterator[tuple[str, str, list[list[str]]]]:
    """Name, package that contains the layers or "", and layers, the highest first."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in options["contracts"]:
        if contract["type"] == "layers":
            (folder,) = contract.get("containers", [""])
            yield contract["name"], folder, [layer.split(" | ") for layer in contract["layers"]]


def picture(layers: Sequence[Sequence[str]]) -> Iterator[str]:
    """A box a layer, one above the other, with a cell for each package."""
    above: set[int] = set()
    for layer in layers:
        row = cells(layer)
        below = {at for at, char in enumerate(row) if char == "│"}
        yield line(above, below)
        yield row
        above = below
    yield line(above, set())


def cells(layer: Sequence[str]) -> str:
    """The packages of a layer side by side, what is left of the width shared among them."""
    spare, more = divmod(WIDTH - 1 - sum(len(name) + 2 for name in layer) - len(layer), len(layer))
    widths = [len(name) + spare + (at < more) for at, name in enumerate(layer)]
    return "│" + "".join(
        f" {name.ljust(width)} │" for name, width in zip(layer, widths, strict=True)
    )


def line(above: set[int], below: set[int]) -> str:
    """The line between two rows, joined to the strokes `above` and `below` it."""
    joints = {(True, True): "┼", (True, False): "┴", (False, True): "┬", (False, False): "─"}
    inner = "".join(joints[at in above, at in below] for at in range(1, WIDTH - 1))
    left, right = "├┤" if above and below else "┌┐" if below else "└┘"
    return left + inner + right


def source(folder: str, name: str) -> Path:
    """The folder of a package, or the file of a module; FileNotFoundError if neither exists."""
    package = ROOT / FOLDERS[folder or name] / folder / name
    found = package if package.is_dir() else package.with_suffix(".py")
    if not found.exists():
        raise FileNotFoundError(found)
    return found


def sentence(path: Path) -> str:
    """The first sentence of a package's or module's docstring."""
    file = path / "__init__.py" if path.is_dir() else path
    paragraph = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).partition(". ")[0].removesuffix(".") + "."


def main() -> None:
    """Write the page given anew."""
    file = Path(sys.argv[1])
    file.write_text(page(file.read_text()))
    print(file)


if __name__ == "__main__":
    main()
