"""200 mutated command lines, environments and configuration files: a documented exit code each."""

import os
import random

import pytest
from typer.main import get_command

from craft_tuner.cli.main import app
from craft_tuner.config.fit_config import every_field
from craft_tuner.config.settings import ENVIRONMENT
from tests.support.tuner_commands import typing_to
from tests.support.tuner_server import FakeServer

pytestmark = [pytest.mark.slow, pytest.mark.long]

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 8}
BATCHES, EACH = 10, 20
NASTY = [
    "", " ", "0", "-1", "1e999", "nan", "inf", "none", "true", "[]", "{}", "'", '"', "=", "--", "-",
    "a" * 5000, "\x1b[2J", "\u202e", "\udcff", "ünï", "/", "..", "/dev/null", "/proc/self/mem", "~",
    "file", "file/below", "http://", "http://[::1", "a.test", "socks://x", "coop:", "coop:@", "hf:",
    "http://999.1.1.1", "http://xn--", "%s{}\n", "9" * 400, "1979-05-27", "digits",
]  # fmt: skip
COMMANDS = [
    ["usage"],
    ["settings"],
    ["data", "check", "digits", "--quick"],
    ["data", "check", "file"],
    ["fit", "--data", "file", "--dry-run"],
    ["fit", "--resume", "file"],
    ["evaluate", "file", "--data", "file"],
    ["predict", "file", "file"],
    ["export", "file", "--out", "out"],
    ["report", "file"],
    ["bench", "--data", "file", "--dry-run"],
    ["doctor", "--data", "file"],
    ["doctor", "--quick"],
]
LIKELY = ["1", "2", "0.5", "16,1", "craft", "auto", "zero_shot", "csv", "day", "names", "none"]
VARIABLES = [
    *(name for field, name in ENVIRONMENT.items() if field != "server"),
    *("CRAFT_SERVR_URL", "CRAFT_FIT_SHOTS", "CRAFT_FIT_NONSENSE", "CRAFT_FIT_", "COLUMNS"),
    *("HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR"),
]
NAMES = [*ENVIRONMENT, *every_field(), "nonsense", ""]


def written(rng):
    """A configuration that is TOML, or nearly."""
    lines = []
    for _ in range(rng.randrange(4)):
        name, value = rng.choice(NAMES), rng.choice(NASTY)
        lines.append(f"{name} = {rng.choice([value, repr(value), '1', '[1, 2]'])}")
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return text + rng.choice([b"", b"", b"\xff\xfe", b"\x00"])


def flags_of(command):
    """The flags that a command has, those of its settings included."""
    found = get_command(app)
    for word in command:
        found = getattr(found, "commands", {}).get(word, found)
    own = [param for param in found.params if param.opts[0].startswith("--")]
    switches = {param.opts[0] for param in own if getattr(param, "is_flag", False)}
    more = (
        [f"--{name.replace('_', '-')}" for name in every_field()]
        if command[0] in {"fit", "doctor"}
        else []
    )
    return [flag.opts[0] for flag in own] + more, switches


def mutated(rng):
    """A command with flags, values and variables that nobody would mean."""
    command = list(rng.choice(COMMANDS))
    flags, switches = flags_of(command)
    if rng.random() < 0.3:
        command[rng.randrange(1 if len(command) > 1 else 0, len(command))] = rng.choice(NASTY)
    for _ in range(rng.randrange(3) if flags else 0):
        flag = rng.choice(flags)
        command += [flag] if flag in switches else [flag, rng.choice(NASTY + LIKELY * 2)]
    if "--config" in flags and rng.random() < 0.3:
        command += ["--config", "craft.toml"]
    return command, {rng.choice(VARIABLES): rng.choice(NASTY) for _ in range(rng.randrange(3))}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_environment_flag_or_file_brings_a_traceback(batch, tmp_path, monkeypatch):
    rng = random.Random(batch)
    monkeypatch.chdir(tmp_path)
    with typing_to(FakeServer()) as tuner:
        for _ in range(EACH):
            (tmp_path / "file").write_bytes(rng.choice([b"", b"path,label\n", b"\xff", b"{}\n"]))
            (tmp_path / "craft.toml").write_bytes(written(rng))
            command, variables = mutated(rng)
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value.replace("\0", ""))
                try:
                    code, out, error = tuner(*command)
                except Exception as fault:  # noqa: BLE001 - whatever it is, it is a fault
                    pytest.fail(f"{command} {variables}: {fault!r}")
            assert code in DOCUMENTED, (command, variables)
            assert "Traceback" not in out + error
            assert code == 0 or out or error, (command, variables)


def test_the_mutations_know_every_command():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert known - {"demo"} == {command[0] for command in COMMANDS}
    assert os.environ.get("CRAFT_FIT_NONSENSE") is None
