"""What an image adds to its base: no build tools, no secrets, no test data, no other program.

python -m scripts.docker_scan IMAGE server|tuner [BASE]
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

from scripts.docker_engine import BASE, files_of, run

USER = "10001:10001"
SMALL = 2**20
"""Files up to this size are searched for secrets."""

TOOLS = re.compile(
    r"^(ar|as|bazel|cargo|cc|clang(\+\+)?|cmake|cpp|g\+\+|gcc|git|go|ld|make|ninja|node|npm|nvcc"
    r"|pip\d?|rustc|uvx?)$"
)
FORBIDDEN_FILES = re.compile(
    r"(^|/)(\.env|\.netrc|\.npmrc|\.pypirc|pip\.conf|id_(rsa|ecdsa|ed25519))$"
    r"|\.key$|/\.git/|/\.ssh/|/\.cache/|(^|/)tests?/test_|/craft_\w+/tests?/"
)
SECRETS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY|craft_[0-9A-Za-z]{43}|AKIA[0-9A-Z]{16}\b")
FORBIDDEN_PACKAGES = {
    "server": {"cma", "craft_tuner", "matplotlib", "pip", "pytest", "scikit_learn", "uv"},
    "tuner": {"alembic", "craft_server", "fastapi", "open_clip", "open_clip_torch", "pip", "pytest"}
    | {"sqlalchemy", "starlette", "timm", "torchvision", "uv", "uvicorn"},
}
VARIABLE = re.compile(r"(?i)(secret|password|token|proxy|^pip_|^uv_|^ssl_)")


def faults(image: str, program: str, base: str) -> Iterator[str]:
    """What is wrong with an image, in sentences."""
    [about] = json.loads(run("docker", "image", "inspect", image))
    [below] = json.loads(run("docker", "image", "inspect", base))
    if about["Config"]["User"] != USER:
        yield f"it runs as {about['Config']['User'] or 'root'}, not as {USER}"
    inherited = set(below["Config"]["Env"] or ())
    for variable in about["Config"]["Env"]:
        if variable not in inherited and VARIABLE.search(variable.split("=")[0]):
            yield f"its environment has {variable}"
    known = {entry.name for entry, _ in files_of(base)}
    for entry, content in files_of(image):
        if entry.name not in known:
            yield from _faults_of(PurePosixPath(entry.name), program)
            if content is not None and entry.size <= SMALL and SECRETS.search(content.read()):
                yield f"{entry.name} looks as if it holds a secret"


def _faults_of(path: PurePosixPath, program: str) -> Iterator[str]:
    if path.parent.name in {"bin", "sbin"} and TOOLS.match(path.name):
        yield f"{path} is a build tool"
    if FORBIDDEN_FILES.search(str(path)):
        yield f"{path} does not belong into an image"
    if path.parent.name == "site-packages":
        package = path.name.split("-")[0].lower()
        if package in FORBIDDEN_PACKAGES[program]:
            yield f"{path} is of no use to the {program}"


def size(image: str) -> str:
    """Its size, in words."""
    found = int(run("docker", "image", "inspect", "--format", "{{.Size}}", image))
    return f"{found / 1e9:.2f} GB" if found >= 1e9 else f"{found / 1e6:.0f} MB"


def main() -> None:
    """Scan one image."""
    image, program, *base = sys.argv[1:]
    found = list(faults(image, program, *(base or [BASE])))
    print(*found, sep="\n")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
