"""The command line mints, shows, changes and revokes keys, and fails in one sentence."""

import csv
import io
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

import craft_server
from craft_server.accounts.keys import Keys
from craft_server.admin import Administration
from craft_server.db.store import Store
from craft_server.db.tables import LIMITS
from craft_server.metering.meter import LedgerEntry, Meter
from craft_shared.messages import Counters
from tests.support.commands import Run

pytestmark = pytest.mark.slow  # whole commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, craft_server: Run) -> Run:
    """Run `craft-server ARGUMENTS` on a data folder of its own."""
    monkeypatch.setenv("CRAFT_SERVER_DATA_DIR", str(tmp_path / "data"))
    return craft_server


@pytest.fixture
def key(run: Run) -> dict[str, str]:
    return json.loads(run("keys", "create", "--owner", "lab", "--queries", "10", "--json").out)


@pytest.fixture
def store(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path / 'data' / 'craft.db'}")
    yield store
    store.close()


def buy(store: Store, key_id: str, *numbers: int, tag: str = "fit", run: str = "") -> None:
    """Purchases of 2 queries each."""
    cost = Counters(queries=2, calls=1, logit_vectors=8, texts=6, logits=24)
    meter = Meter(store)
    for number in numbers:
        hold = meter.reserve(key_id, f"r{number}", fingerprint="f", cost=cost, hold_s=60)
        meter.settle(hold, b"", entry=LedgerEntry("tiny", "set_1", 2, 4, 3, tag=tag, run=run))


# --- keys ---------------------------------------------------------------------------------------


def test_a_new_key_is_all_that_standard_output_has(run: Run, store: Store):
    done = run("keys", "create", "--owner", "lab", "--queries", "10")
    key = Keys(store).verify(done.out.strip())
    assert (done.code, key.owner) == (0, "lab")
    assert key.id in done.err
    assert "never shown again" in done.err


def test_a_new_key_as_json_says_what_it_may_do(run: Run, store: Store):
    options = ("--logit-vectors", "50", "--scope", "usage:read", "--scope", "logits:read")
    limits = ("--queries", "10", "--expires-at", "2100-01-31T18:00:00+02:00")
    created = json.loads(run("keys", "create", "--owner", "lab", *limits, *options, "--json").out)
    assert Keys(store).verify(created["key"]).id == created["id"]
    assert created["owner"] == "lab"
    assert (created["queries_limit"], created["logit_vectors_limit"]) == (10, 50)
    assert created["scopes"] == ["logits:read", "usage:read"]
    assert created["expires_at"] == "2100-01-31T16:00:00+00:00"


def test_what_was_understood_of_a_new_key_is_said_beside_its_token(run: Run, store: Store):
    policy = '{"output": {"kind": "top_k", "k": 2}, "class_names": ["a", "b", "c"]}'
    options = ("--texts", "2000", "--logits", "unlimited", "--policy", policy)
    done = run("keys", "create", "--owner", "lab", "--queries", "10", *options)
    assert len(done.out.splitlines()) == 1
    said = done.err.splitlines()[1:]
    assert said == [
        "  may: logits:read images:write usage:read, for good",
        (
            "  has left: 10 of 10 queries, 2000 of 2000 texts, "
            "any number of logit vectors, any number of logits"
        ),
        '  policy: {"output":{"kind":"top_k","k":2},"class_names":["a","b","c"]}',
        f"  database: {store.path}",
    ]


def test_a_key_of_an_administrator_is_said_to_be_one(run: Run, store: Store):
    done = run("keys", "create-admin", "--owner", "root", "--expires-at", "2100-01-01")
    assert done.err.splitlines()[1:] == [
        "  may: admin, until 2100-01-01T00:00:00+00:00",
        f"  database: {store.path}",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "create", "--owner", "lab", "--queries", "1"),
        ("keys", "create", "--owner", "lab", "--queries", "1", "--json"),
        ("keys", "create-admin", "--owner", "lab"),
        ("keys", "list"),
        ("usage",),
        ("db", "upgrade"),
    ],
)
def test_a_database_that_is_made_anew_is_named_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    """A key that is made in another folder than the server's would work nowhere."""
    monkeypatch.delenv("CRAFT_SERVER_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    first, again = run(*command), run(*command)
    anew = re.compile("database was made|made anew")
    made = [line for line in first.err.splitlines() if anew.search(line)]
    assert [str(tmp_path / "var" / "craft.db") in line for line in made] == [True]
    assert not anew.search(again.err)
    if "--json" in command:
        assert json.loads(again.out)["database"] == str(tmp_path / "var" / "craft.db")


def test_limits_that_are_not_said_are_the_operator_s_defaults(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
):
    for name, limit in (("LOGIT_VECTORS", "5"), ("TEXTS", "6"), ("LOGITS", "7")):
        monkeypatch.setenv(f"CRAFT_SERVER_DEFAULT_{name}_LIMIT", limit)
    given = ("--owner", "lab", "--queries", "10", "--texts", "8", "--logits", "unlimited", "--json")
    made = json.loads(run("keys", "create", *given).out)
    limits = {name: made[f"{name}_limit"] for name in LIMITS}
    assert limits == {"queries": 10, "logit_vectors": 5, "texts": 8, "logits": None}
    budgets = Meter(store).budgets(made["id"])
    assert {name: budget and budget.limit for name, budget in budgets} == limits
    admin = json.loads(run("keys", "create-admin", "--owner", "root", "--json").out)
    assert admin["texts_limit"] is None


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('{"output": {"knd": "label"}}', "output.knd"),
        ('{"clas_names": ["a"]}', "clas_names"),
        ('{"class_names": ["a", "b"], "output": {"kind": "top_k", "k": 2}}', "at least 3"),
        ('{"max_classes": 2, "output": {"kind": "top_k", "k": 2}}', "at least 3"),
        ('{"max_classes": 2, "class_names": ["a", "b", "c"]}', "class_names has 3"),
    ],
)
def test_a_policy_that_cannot_be_meant_makes_no_key(
    run: Run, policy: str, said: str, tmp_path: Path
):
    path = tmp_path / "policy.json"
    path.write_text(policy)
    for given in (policy, f"@{path}"):
        done = run("keys", "create", "--owner", "lab", "--queries", "1", "--policy", given)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
    assert run("keys", "list").out == ""


def test_keys_are_listed_with_their_state_and_never_with_their_token(run: Run, key: dict[str, str]):
    expired = ("--owner", "old", "--queries", "1", "--expires-at", "2020-01-01")
    run("keys", "create", *expired)
    run("keys", "revoke", key["id"])
    done = run("keys", "list", "--json")
    assert key["key"] not in done.out
    assert [(row["owner"], row["state"]) for row in json.loads(done.out)] == [
        ("lab", "revoked"),
        ("old", "expired"),
    ]


def test_lists_are_tab_separated_lines_where_there_is_no_terminal(run: Run, key: dict[str, str]):
    head, line = run("keys", "list").out.splitlines()
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["id"], row["state"], row["logit_vectors_limit"]) == (key["id"], "active", "")
    assert row["scopes"] == "logits:read images:write usage:read"


def test_lists_are_tables_on_a_terminal(
    run: Run, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    run("keys", "create", "--owner", "[bold]x", "--queries", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "250")
    out = run("keys", "list").out
    assert "\t" not in out
    assert key["id"] in out
    assert "[bold]x" in out


def test_an_empty_table_says_so(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "nothing yet" in run("keys", "list").out


def test_a_budget_is_changed(run: Run, key: dict[str, str], store: Store):
    done = run("keys", "set-budget", key["id"], "--queries", "20", "--logit-vectors", "7")
    assert (done.code, "20 of 20 queries, 7 of 7 logit vectors" in done.err) == (0, True)
    budgets = Meter(store).budgets(key["id"])
    assert budgets.logit_vectors is not None
    assert (budgets.queries.limit, budgets.logit_vectors.limit) == (20, 7)
    run("keys", "set-budget", key["id"], "--logit-vectors", "unlimited")
    assert Meter(store).budgets(key["id"]).logit_vectors is None
    run("keys", "set-budget", key["id"], "--texts", "300", "--logits", "9")
    budgets = Meter(store).budgets(key["id"])
    assert budgets.texts is not None
    assert budgets.logits is not None
    assert (budgets.texts.limit, budgets.logits.limit) == (300, 9)
    assert "--texts 'x' is neither" in run("keys", "set-budget", key["id"], "--texts", "x").err


def test_where_the_data_lies_can_be_said_on_the_command_line(run: Run, tmp_path: Path):
    there = f"sqlite:///{tmp_path / 'other.db'}"
    run("keys", "create", "--owner", "a", "--queries", "1", "--database-url", there)
    run("keys", "create", "--owner", "b", "--queries", "1", "--data-dir", str(tmp_path / "b"))
    assert "\ta\t" in run("keys", "list", "--database-url", there).out
    assert "\tb\t" in run("keys", "list", "--data-dir", str(tmp_path / "b")).out
    assert run("keys", "list").out == ""


# --- usage --------------------------------------------------------------------------------------


def test_usage_adds_up_each_key_and_audits_the_ledger(run: Run, key: dict[str, str], store: Store):
    run("keys", "create", "--owner", "idle", "--queries", "3")
    buy(store, key["id"], 1, 2)
    done = run("usage", "--export", "json")
    used, idle = json.loads(done.out)["usage"]
    assert used == {
        "key": key["id"],
        "owner": "lab",
        "queries": 4,
        "calls": 2,
        "logit_vectors": 16,
        "texts": 12,
        "logits": 48,
        "queries_limit": 10,
        "queries_remaining": 6,
        **dict.fromkeys(f"{name}_limit" for name in ("logit_vectors", "texts", "logits")),
        **dict.fromkeys(f"{name}_remaining" for name in ("logit_vectors", "texts", "logits")),
    }
    assert (idle["owner"], idle["queries"], idle["queries_remaining"]) == ("idle", 0, 3)
    assert json.loads(done.out)["audit"] == []
    assert (done.code, done.err) == (0, "audit: ledger == used for every key\n")


def test_usage_of_one_key_as_csv(run: Run, key: dict[str, str], store: Store):
    run("keys", "create", "--owner", "idle", "--queries", "3")
    buy(store, key["id"], 1)
    done = run("usage", "--key", key["id"], "--export", "csv")
    (row,) = csv.DictReader(io.StringIO(done.out))
    assert (row["key"], row["queries"]) == (key["id"], "2")


def test_tags_that_are_formulas_are_text_in_a_csv_and_numbers_stay_numbers(
    run: Run, key: dict[str, str], store: Store
):
    buy(store, key["id"], 1, tag="=1+1", run="-2")
    (row,) = csv.DictReader(io.StringIO(run("usage", "--events", "--export", "csv").out))
    assert (row["tag"], row["run"], row["queries"]) == ("'=1+1", "'-2", "2")


def test_where_the_queries_went_is_one_command(run: Run, key: dict[str, str], store: Store):
    buy(store, key["id"], 1, 2, tag="fitness", run="r1")
    buy(store, key["id"], 3, tag="head", run="r1")
    buy(store, key["id"], 4, tag="fitness", run="r2")
    head, *lines = run("usage", "--by", "tag").out.splitlines()
    assert head.split("\t")[:2] == ["tag", "queries"]
    assert [line.split("\t")[:2] for line in lines] == [["fitness", "6"], ["head", "2"]]
    one_run = run("usage", "--by", "tag", "--run", "r2", "--export", "ndjson").out.splitlines()
    assert [json.loads(line)["queries"] for line in one_run] == [2]
    by_run = json.loads(run("usage", "--by", "run", "--export", "json").out)
    assert [(row["run"], row["queries"]) for row in by_run["usage"]] == [("r1", 6), ("r2", 2)]
    assert by_run["audit"] == []
    (day,) = json.loads(run("usage", "--by", "day", "--export", "json").out)["usage"]
    assert (day["day"][10:], day["queries"]) == ("T00:00:00Z", 8)
    (one,) = json.loads(run("usage", "--by", "image_set", "--export", "json").out)["usage"]
    assert (one["image_set"], one["queries"]) == ("set_1", 8)


def test_usage_is_cut_by_time_tag_run_and_key(run: Run, key: dict[str, str], store: Store):
    other = json.loads(run("keys", "create", "--owner", "b", "--queries", "9", "--json").out)["id"]
    buy(store, key["id"], 1, tag="fitness", run="r1")
    buy(store, other, 1, 2, tag="head", run="r2")

    def queries(*options: str) -> int:
        rows = json.loads(run("usage", "--export", "json", *options).out)["usage"]
        return sum(row["queries"] for row in rows)

    assert queries() == 6
    assert queries("--tag", "head") == queries("--run", "r2") == queries("--key", other) == 4
    assert queries("--by", "hour", "--key", other) == 4
    assert queries("--since", "2100-01-01") == queries("--until", "2020-01-01T00:00:00Z") == 0
    assert queries("--since", "2020-01-01", "--until", "2100-01-01", "--by", "day") == 6


def test_usage_is_exported_to_a_file(run: Run, key: dict[str, str], store: Store, tmp_path: Path):
    buy(store, key["id"], *range(3))
    file = tmp_path / "usage.csv"
    done = run("usage", "--events", "--export", "csv", "--output", str(file))
    assert done.out == ""
    with file.open(newline="") as lines:
        assert [row["request_id"] for row in csv.DictReader(lines)] == ["r0", "r1", "r2"]
    nowhere = run("usage", "--export", "csv", "--output", str(tmp_path / "none" / "x"))
    assert nowhere.code == 1
    assert "No such file" in nowhere.err


def test_events_are_all_lines_of_the_ledger(run: Run, key: dict[str, str], store: Store):
    buy(store, key["id"], *range(3))
    events = json.loads(run("usage", "--events", "--export", "json").out)["events"]
    assert [event["request_id"] for event in events] == ["r0", "r1", "r2"]
    assert {event["tag"] for event in events} == {"fit"}
    assert len(run("usage", "--events", "--key", key["id"]).out.splitlines()) == 4


def test_a_ledger_that_disagrees_is_a_failure_that_names_key_and_figures(
    run: Run, key: dict[str, str], store: Store
):
    buy(store, key["id"], 1)
    with store.write() as tx:
        tx.execute(text("UPDATE keys SET queries_used = 5"))
    done = run("usage")
    assert done.code == 1
    assert f"{key['id']} counts 5 queries_used, its rows say 2" in done.err


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("keys revoke key_0", 2, "no key has the id 'key_0'"),
        ("keys set-budget key_0", 2, "nothing to change: give --queries"),
        ("keys change key_0", 2, "nothing to change: give --scope, --expires-at or --policy"),
        ("keys change key_0 --expires-at soon", 2, "expires_at"),
        ("keys change key_0 --policy {", 2, "Invalid JSON"),
        ("keys change key_0 --policy @/nowhere", 1, "/nowhere"),
        ("keys rotate key_0", 2, "no key has the id 'key_0'"),
        ("keys set-budget key_0 --logit-vectors x", 2, "'x' is neither a whole number nor"),
        (
            "keys create --owner lab --queries -1",
            2,
            "queries_limit: Input should be greater than or equal to 0; got -1",
        ),
        ("usage --key key_0", 2, "no key has the id 'key_0'"),
        ("usage --output x", 2, "--output needs --export"),
        ("keys list --database-url nonsense", 2, "database_url cannot be used"),
        ("keys list --database-url foo://h/x", 2, "'foo' is no kind of database"),
        ("keys list --database-url sqlite:///x.db?timeout=abc", 2, "database_url cannot be used"),
        ("keys list --database-url postgresql://127.0.0.1/x?foo=1", 2, "connection option"),
        ("keys list --database-url postgres://127.0.0.1:1/x", 1, "the database does not answer"),
        ("keys list --database-url mysql+nodriver://h/x", 2, "'mysql+nodriver' is no kind of"),
        ("keys list --database-url mssql+pymssql://h/x", 2, "needs the package 'pymssql'"),
        ("keys list --database-url sqlite:////", 1, "the database does not answer: unable to"),
        ("keys list --data-dir /dev/null/x", 1, "/dev/null"),
        ("serve --port 99999", 2, "port: Input should be less than or equal to 65535; got 99999"),
        ("serve --precision int3", 2, "precision: Input should be 'float32'"),
    ],
)
def test_a_failure_is_one_sentence_and_a_code(
    run: Run, store: Store, arguments: str, code: int, sentence: str
):
    done = run(*arguments.split())
    assert done.code == code
    assert sentence in done.err
    assert done.err.startswith("craft-server: ")
    assert len(done.err.splitlines()) == 1
    assert done.out == ""


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("CRAFT_SERVER_PROT", "did you mean CRAFT_SERVER_PORT?"),
        ("CRAFT_SERVER_DATABASEURL", "did you mean CRAFT_SERVER_DATABASE_URL?"),
        ("CRAFT_SERVER__DATA_DIR", "did you mean CRAFT_SERVER_DATA_DIR?"),
        ("craft_server_modell", "did you mean CRAFT_SERVER_MODEL?"),
        ("CRAFT_SERVER_XYZZY", "docs/reference/settings.md has all"),
        ("craft_server_log_level", None),
        ("CRAFT_SERVER_URL", None),  # the tuner's, in the same file of Docker Compose
        ("CRAFT_SERVER_SERVICE_HOST", None),  # of a service of Kubernetes
        ("CRAFT_SERVER_PORT_8000_TCP_ADDR", None),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest_setting(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, said: str | None
):
    monkeypatch.setenv(variable, "warning")
    done = run("keys", "list")
    assert done.code == 0
    lines = [f"craft-server: {variable} is no setting and changes nothing; {said}"] if said else []
    assert [line for line in done.err.splitlines() if variable in line] == lines


def test_the_version_is_that_of_the_package(run: Run):
    done = run("--version")
    assert (done.code, done.out) == (0, f"craft-server {version('craft-blackbox')}\n")


def test_a_command_that_does_not_exist_is_the_users_error(run: Run):
    assert run("frobnicate").code == 2


# --- serve --------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list:
    """Settings that a server was started with; the server itself is not loaded."""
    started: list = []
    fake = SimpleNamespace(serve=started.append)
    monkeypatch.setitem(sys.modules, "craft_server.app", fake)
    monkeypatch.setattr(craft_server, "app", fake, raising=False)
    return started


def test_serve_hands_down_what_was_given_and_nothing_else(run: Run, served: list, tmp_path: Path):
    places = ("--data-dir", str(tmp_path), "--database-url", "sqlite:///x.db")
    model = ("--model", "RN50", "--pretrained", "openai", "--device", "cpu")
    rest = ("--host", "0.0.0.0", "--port", "9", "--precision", "bfloat16")
    assert run("serve", *places, *model, *rest).code == 0
    (settings,) = served
    assert settings.model_fields_set == {
        "host",
        "port",
        "model",
        "pretrained",
        "device",
        "precision",
        "data_dir",
        "database_url",
    }
    assert (settings.host, settings.port, settings.model) == ("0.0.0.0", 9, "RN50")
    assert (settings.pretrained, settings.device) == ("openai", "cpu")
    assert (settings.precision, settings.database_url) == ("bfloat16", "sqlite:///x.db")


def test_serve_without_options_follows_the_environment(
    run: Run, served: list, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CRAFT_SERVER_PORT", "1234")
    run("serve")
    assert served[0].port == 1234


@pytest.mark.parametrize("model", [(), ("--model", "embedded"), ("--model", "stub")])
def test_weights_without_their_model_are_refused(run: Run, model: tuple[str, ...]):
    done = run("serve", "--port", "0", "--pretrained", "file.pt", *model)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("craft-server: --pretrained file.pt needs --model")


def test_a_database_that_cannot_be_had_is_said_before_a_model_is_loaded(run: Run):
    done = run("serve", "--port", "0", "--model", "nonsense", "--database-url", "nonsense")
    assert (done.code, "database_url cannot be used" in done.err) == (2, True)


@pytest.mark.slow
def test_keys_load_no_model_and_no_server(tmp_path: Path):
    program = (
        "import sys; from craft_server.cli.main import main\n"
        f"sys.argv = ['craft-server', 'keys', 'list', '--data-dir', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'open_clip', 'fastapi', 'uvicorn', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# --- what keys may do, and who said so ----------------------------------------------------------


def test_a_policy_is_json_on_the_line_or_in_a_file(run: Run, store: Store, tmp_path: Path):
    file = tmp_path / "policy.json"
    file.write_text('{"output": {"kind": "label"}, "max_classes": 5}')
    arguments = "keys", "create", "--owner", "lab", "--queries", "1", "--json", "--policy"
    made = json.loads(run(*arguments, f"@{file}").out)
    assert Keys(store).verify(made["key"]).policy.output.kind == "label"
    assert json.loads(made["policy"]) == {"output": {"kind": "label"}, "max_classes": 5}
    done = run("keys", "change", made["id"], "--policy", "{}", "--expires-at", "2999-01-01")
    assert done.err == f"{made['id']} of lab is changed: expires_at, policy\n"
    changed = Keys(store).find(made["id"])
    assert changed.policy.output.kind == "logits"
    assert changed.expires_at is not None
    run("keys", "change", made["id"], "--scope", "usage:read", "--expires-at", "never")
    assert Keys(store).find(made["id"]).scopes == ("usage:read",)


def test_a_rotated_key_gets_a_new_token_alone_on_standard_output(run: Run, key, store: Store):
    done = run("keys", "rotate", key["id"], "--grace", "60")
    assert Keys(store).verify(done.out.strip()).id == key["id"]
    assert Keys(store).verify(key["key"]).token_until is not None
    as_json = json.loads(run("keys", "rotate", key["id"], "--json").out)
    assert Keys(store).verify(as_json["key"]).id == key["id"]


def test_an_admin_key_is_made_at_the_command_line_alone(run: Run, store: Store):
    token = run("keys", "create-admin", "--owner", "ops").out.strip()
    assert Keys(store).verify(token).scopes == ("admin",)
    refused = run("keys", "create", "--owner", "x", "--queries", "1", "--scope", "admin")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("craft-server: scopes[0]: Input should be 'logits:read'")


def test_the_trail_names_the_account_and_what_became_what(run: Run, key):
    run("keys", "set-budget", key["id"], "--queries", "12")
    run("keys", "revoke", key["id"])
    lines = json.loads(run("keys", "log", "--key", key["id"], "--json").out)
    assert [line["act"] for line in lines] == ["create", "change", "revoke"]
    assert all(line["actor"].startswith("cli") for line in lines)
    assert lines[1]["changes"] == "queries_limit: 10 -> 12"
    assert "owner: lab" in lines[0]["changes"]
    assert run("keys", "log").out.count("\n") == 4


def test_keys_of_one_owner_are_listed_however_many(run: Run, key, store: Store, monkeypatch):
    page = "craft_server.admin.Administration.page"
    whole = Administration.page
    monkeypatch.setattr(page, lambda self, **where: whole(self, **(where | {"limit": 1})))
    for _ in range(2):
        Keys(store).create("other", 1)
    listed = json.loads(run("keys", "list", "--owner", "other", "--json").out)
    assert [row["owner"] for row in listed] == ["other", "other"]
    assert len(json.loads(run("keys", "list", "--json").out)) == 3
