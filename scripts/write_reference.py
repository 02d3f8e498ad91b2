"""Write docs/reference/ from the code: settings, commands, the OpenAPI document.

    python -m scripts.write_reference docs/reference

A test compares the folder with what this writes, so that no option stays undocumented.
"""

import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_server.models.stub import StubBlackBox
from craft_server.settings import Settings
from craft_shared.errors import CODES

_BLOCK = r"^(Examples|Exit codes):\n((?:  .+\n)+)"


def pages() -> Iterator[tuple[str, str]]:
    """Name and content of every page."""
    yield "settings.md", settings_page()
    yield "errors.md", errors_page()
    yield "craft-server.md", commands_page("craft-server", "craft_server.cli.main")
    yield "craft-tuner.md", commands_page("craft-tuner", "craft_tuner.cli.main")
    yield "openapi.json", openapi_page()


def settings_page() -> str:
    """A table of the server's settings."""
    lines = [
        "# Settings of craft-server",
        "",
        "Each is an environment variable; some are flags of `craft-server serve` too.",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `CRAFT_SERVER_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """A table of the protocol's error codes."""
    lines = [
        "# Error codes",
        "",
        "Every error is an `application/problem+json` document with one of these codes.",
        "",
        "| code | status | send it again? | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for code, rule in CODES.items():
        again = "yes" if rule.retryable else "no"
        lines.append(f"| `{code}` | {rule.status} | {again} | {rule.title} |")
    return "\n".join(lines) + "\n"


def commands_page(program: str, module: str) -> str:
    """What typer says of a command line."""
    typer = Path(sys.executable).parent / "typer"
    done = subprocess.run(
        [typer, module, "utils", "docs", "--name", program],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(_BLOCK, _fenced, done.stdout.strip() + "\n", flags=re.MULTILINE)


def _fenced(block: re.Match[str]) -> str:
    """Lines that stand one below the other in a terminal, and would flow together on a page."""
    return f"**{block[1]}**:\n\n```text\n{textwrap.dedent(block[2])}```\n"


def openapi_page() -> str:
    """The OpenAPI document of a server with default limits."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        app = create_app(settings, StubBlackBox(card_limits(settings)))
        document = app.openapi()
        services_of(app).store.close()
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write every page into the folder given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages():
        (folder / name).write_text(content)
        print(folder / name)


if __name__ == "__main__":
    main()
