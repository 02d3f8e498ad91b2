"""200 mutated command lines, environments, configurations and folders: documented exit codes."""

import json
import random

import pytest
from starlette.testclient import TestClient
from typer.main import get_command

from craft_server import app as server
from craft_server.cli.main import app
from craft_server.models.clip import load
from craft_server.models.clip.outline import outline_of
from craft_server.models.clip.source import find_source, load_tokenizer
from craft_server.models.stub import StubBlackBox
from craft_server.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.long]

DOCUMENTED = {0, 1, 2, 3}
BATCHES, EACH = 10, 20
NASTY = [
    "", " ", "0", "-1", "1e999", "nan", "inf", "none", "true", "[]", "{}", "'", '"', "=", "--", "-",
    "a" * 5000, "\x1b[2J", "\u202e", "\udcff", "ünï", "..", "/dev/null", "/proc/self/mem", "~x",
    "file", "file/below", "http://", "http://[::1", "s3://", "memory://", "file:///proc/x", "[::1]",
    "sqlite://", "sqlite:///", "sqlite:///file", "sqlite:///%zz?x", "postgres://127.0.0.1:1/x",
    "postgres://127.0.0.1:x", "mysql://x", "999.1.1.1", "%s{}\n", "9" * 400, "1979-05-27", "@file",
    "@..", "key_0", "1" * 19, "0.5", "0x10", "1_0", "٣", "config.json", "weights.pt",
]  # fmt: skip
LIKELY = [
    *("1", "2", "10", "0.5", "stub", "RN50", "openai", "config.json", "weights.pt", "cpu", "data"),
    *("float16", "lab", "unlimited", "never", "2030-01-31", "usage:read", "admin", "json", "csv"),
    *("tag", "day", "key_0", "127.0.0.1", '{"prompt_kinds": ["text"]}', '{"output": {}}', "text"),
]
COMMANDS = [
    ["serve", "--model", "stub"],
    ["serve", "--model", "config.json", "--pretrained", "weights.pt"],
    ["serve"],
    ["check"],
    ["check", "--model", "config.json", "--pretrained", "weights.pt"],
    ["check", "--model", "stub", "--load", "--json"],
    ["usage"],
    ["usage", "--events", "--export", "csv"],
    ["keys", "create", "--owner", "lab", "--queries", "5"],
    ["keys", "create-admin", "--owner", "lab"],
    ["keys", "list", "--json"],
    ["keys", "set-budget", "key_0", "--queries", "5"],
    ["keys", "change", "key_0", "--policy", "@file"],
    ["keys", "rotate", "key_0"],
    ["keys", "revoke", "key_0"],
    ["keys", "log"],
    ["db", "status"],
    ["db", "upgrade"],
]
VARIABLES = [
    *(f"CRAFT_SERVER_{name.upper()}" for name in Settings.model_fields),
    *("CRAFT_SERVER_PROT", "CRAFT_SERVER_", "craft_server_port", "CRAFT_SERVER_URL"),
    *("COLUMNS", "TZ", "NO_COLOR", "HF_HUB_OFFLINE"),
]
TOWERS = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 99, "width": 8, "heads": 1, "layers": 1},
}
VALUES = [None, -1, 0, 7, 0.5, "x", "", [], {}, [1, 2], True, "../x", 1e308, {"layers": 1}]


def config(rng):
    """A model configuration, or nearly one."""
    made = json.loads(json.dumps(TOWERS))
    for _ in range(rng.randrange(3)):
        part = made[rng.choice(["vision_cfg", "text_cfg"])] if rng.random() < 0.8 else made
        if isinstance(part, dict):
            name = rng.choice([*part, "hf_tokenizer_name", "hf_model_name", "timm_model_name", "x"])
            part[name] = rng.choice(VALUES)
    text = json.dumps(made).encode()
    return rng.choice([text, text, text, text[: rng.randrange(len(text))], b"\xff" + text, b"[]"])


def folder(rng, place):
    """A data folder: none, a file, a damaged ledger, or one that other things lie in."""
    kind = rng.randrange(8)
    if kind == 0:
        place.write_bytes(b"")
    elif kind < 4:
        place.mkdir(mode=rng.choice([0o700, 0o755, 0o500]))
        ledger = place / rng.choice(["craft.db", "features.db", "images", "craft.db-wal"])
        if rng.random() < 0.3:
            ledger.mkdir()
        else:
            ledger.write_bytes(rng.choice([b"", b"SQLite format 3\0", rng.randbytes(9999)]))


def flags_of(command):
    """The flags that a command has, and which of them take no value."""
    found = get_command(app)
    for word in command:
        found = getattr(found, "commands", {}).get(word, found)
    own = [param for param in found.params if param.opts[0].startswith("--")]
    return [each.opts[0] for each in own], {each.opts[0] for each in own if each.is_flag}


def mutated(rng):
    """A command with flags, values and variables that nobody would mean."""
    command = list(rng.choice(COMMANDS))
    flags, switches = flags_of(command)
    if rng.random() < 0.2:
        command[rng.randrange(len(command))] = rng.choice(NASTY)
    for _ in range(rng.randrange(3)):
        flag = rng.choice(flags)
        command += [flag] if flag in switches else [flag, rng.choice(NASTY + LIKELY * 2)]
    values = NASTY + LIKELY
    return command, {rng.choice(VARIABLES): rng.choice(values) for _ in range(rng.randrange(3))}


def started(sockets, application, **_):
    """What a server does before it listens, and at its end."""
    for each in sockets:
        each.close()
    with TestClient(application.app):
        pass


def outlined(settings, limits):
    """A model's names and shapes are looked at, and the stub is served in its place."""
    source = find_source(settings)
    load_tokenizer(source.name)
    load.pick_device(settings.device)
    outline_of(source)
    return StubBlackBox(limits)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_environment_flag_file_or_folder_brings_a_traceback(
    batch, tmp_path, monkeypatch, craft_server
):
    rng = random.Random(batch)
    monkeypatch.setattr(server, "serve_on", started)
    monkeypatch.setattr(load, "load_clip", outlined)
    for number in range(EACH):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "config.json").write_bytes(config(rng))
        (place / "weights.pt").write_bytes(rng.choice([b"", b"x", rng.randbytes(999)]))
        (place / "file").write_bytes(rng.choice([b"", b"{}", b"\xff", b'{"max_classes": 2}']))
        folder(rng, place / "data")
        command, variables = mutated(rng)
        with monkeypatch.context() as patch:
            patch.chdir(place)
            patch.setenv("CRAFT_SERVER_DATA_DIR", "data")
            patch.setenv("CRAFT_SERVER_PORT", "0")
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                done = craft_server(*command)
            except Exception as fault:  # noqa: BLE001 - whatever it is, it is a fault
                pytest.fail(f"{command} {variables}: {fault!r}")
        assert done.code in DOCUMENTED, (command, variables)
        assert "Traceback" not in done.out + done.err, (command, variables)
        assert done.code == 0 or done.out or done.err, (command, variables)


def test_the_exit_codes_are_documented_and_the_mutations_know_every_command(craft_server):
    told = craft_server("--help").out.partition("Exit codes:")[2]
    assert {int(line.split()[0]) for line in told.splitlines() if line.strip()} == DOCUMENTED
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert known == {command[0] for command in COMMANDS}
