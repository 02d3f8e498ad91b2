"""`craft-server check` finds every planted fault, says what to do, and changes nothing."""

import os
import re
import shutil
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from craft_server.accounts.keys import Keys
from craft_server.checks import limits, machine, places
from craft_server.db.holders import Holder
from craft_server.db.store import Store
from tests.support.databases import fresh_postgres
from tests.support.planted import Fault, prepare, screen, troubles, world_in
from tests.support.released import release, run_script
from tests.support.serving import free_port


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(folder)
    return folder


@pytest.fixture
def world(tmp_path, prepared, monkeypatch):
    with ExitStack() as held:
        yield world_in(tmp_path, prepared, monkeypatch, held)


# --- what is planted ----------------------------------------------------------------------------


def taken(world):
    """A port that another program has."""
    other = world.held.enter_context(socket.create_server(("127.0.0.1", 0)))
    return other.getsockname()[1]


def one_port(world):
    port = free_port()
    world.set(metrics_port=port)
    world.give("--port", port)


def with_keys(world, change):
    with closing(Store(world.url)) as store:
        change(Keys(store))


def revoke_all(world):
    with_keys(world, lambda keys: [keys.revoke(key.id) for key in keys.all()])


def revoke_admin(world):
    with_keys(world, lambda keys: [keys.revoke(k.id) for k in keys.all() if k.owner == "root"])


def old_database(world):
    (world.data / "craft.db").unlink()
    release(world.url)
    (world.data / "craft.db").chmod(0o600)


def refuse_later(world):
    old_database(world)
    world.set(migrate="false")


def mode_bits(path, mode):
    """`os.access` as it is for accounts that may not do everything."""
    return bool(Path(path).stat().st_mode & 0o200) if mode == os.W_OK else True


def read_only(world):
    world.patch.setattr(os, "access", mode_bits)
    (world.data / "craft.db").chmod(0o400)


def other_server(world):
    store = Store(world.url)
    world.held.callback(store.close)
    world.held.callback(Holder(store).close)


def hidden(world):
    """A folder above the data folder that this account may not enter."""

    def exists(path):
        if world.folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return True

    world.patch.setattr(places, "_nearest", lambda folder: exists(folder) and folder)


def not_importable(world, *names):
    for name in names:
        world.patch.setitem(sys.modules, name, None)


def free_disk(count):
    return lambda world: world.patch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=count)
    )


def limited(world):
    world.patch.setattr(machine.resource, "getrlimit", lambda _: (256, 4096))


def wide(name, mode):
    return lambda world: (world.data / name).chmod(mode)


def patched_clock(world):
    world.patch.setattr(machine, "time", SimpleNamespace(time=lambda: 86_400.0))


def without_otel(world):
    not_importable(world, "craft_server.observability.otel")
    world.set(otel_endpoint="http://127.0.0.1:1")


FAULTS = [
    Fault(
        "port", lambda w: w.give("--port", taken(w)), "fail", "already in use; give another port"
    ),
    Fault("metrics port", lambda w: w.set(metrics_port=taken(w)), "fail", "another metrics_port"),
    Fault("one port for both", one_port, "fail", "another metrics_port"),
    Fault(
        "no host", lambda w: w.give("--host", "a..b"), "fail", "on a..b:.*; CRAFT_SERVER_HOST is"
    ),
    Fault(
        "other host", lambda w: w.give("--host", "192.0.2.1"), "fail", "192.0.2.1:.*assign.*; CR"
    ),
    Fault(
        "metrics host",
        lambda w: w.set(metrics_port=free_port(), metrics_host="256.1.1.1"),
        "fail",
        "on 256.1.1.1:.*; CRAFT_SERVER_METRICS_HOST is an address",
    ),
    Fault(
        "open metrics",
        lambda w: w.set(metrics_port=free_port(), metrics_host="0.0.0.0"),
        "warn",
        "without a key; keep the port where clients cannot reach it",
    ),
    Fault("misspelt", lambda w: w.set(prot=1), "warn", "_PROT is no setting.*CRAFT_SERVER_PORT"),
    Fault("misspelt deep", lambda w: w.set(databaseurl=1), "warn", "did you mean .*DATABASE_URL"),
    Fault(
        "port range", lambda w: w.set(metrics_port=99999), "fail", "metrics_port: .*, got '99999'"
    ),
    Fault(
        "no choice", lambda w: w.give("--precision", "int3"), "fail", "precision: .*PRECISION is"
    ),
    Fault(
        "no number", lambda w: w.set(queue="many"), "fail", "queue: .*got 'many'; CRAFT_SERVER_Q"
    ),
    Fault("no list", lambda w: w.set(prompt_kinds="soft"), "fail", "prompt_kinds.*; see docs/ref"),
    Fault(
        "like alone", lambda w: w.set(pretrained_like="openai"), "warn", "without pretrained; it"
    ),
    Fault("open files", limited, "fail", "256 files may be open.*; start .* `ulimit -n 632`"),
    Fault("memory", lambda w: w.set(bodies_bytes=2**50), "warn", "memory.*; lower bodies_bytes"),
    Fault("clock", patched_clock, "fail", "clock says 1970-01-02.*; set the clock"),
    Fault("zone", lambda w: w.patch.setenv("TZ", "Europe/Berln"), "warn", "TZ=Europe/Berln is no"),
    Fault(
        "kernel's", lambda w: w.give("--data-dir", "/proc/x"), "fail", "folder /proc/x: .*; give"
    ),
    Fault(
        "a file",
        lambda w: w.give("--data-dir", w.file("file", b"") / "data"),
        "fail",
        "nothing can be written to the data folder .*file/data: .*Not a directory.*; give a folder",
    ),
    Fault("hidden", hidden, "fail", "Permission denied: '.*data'; give a folder of this account"),
    Fault("little room", free_disk(2**29), "warn", "0.5 GiB are free .*; make room"),
    Fault("no room", free_disk(2**20), "fail", "0.0 GiB are free .*; make room: nothing is sold"),
    Fault(
        "open ledger", wide("craft.db", 0o644), "warn", r"craft.db \(mode 644\).*; chmod 600 .*db"
    ),
    Fault("open folder", wide("", 0o755), "warn", r"data \(mode 755\).*; chmod 700 .*data"),
    Fault(
        "elsewhere",
        lambda w: w.give("--data-dir", w.folder / "other"),
        "warn",
        "other/craft.db has no tables yet, and so no keys.*; name the folder .* keys create",
    ),
    Fault("revoked", revoke_all, "warn", "no key is good .*2 are revoked.*; .*keys create --owner"),
    Fault("no admin", revoke_admin, "warn", "no key of an administrator.*keys create-admin"),
    Fault(
        "newer schema",
        lambda w: run_script(w.url, "UPDATE alembic_version SET version_num = '0999';\n"),
        "fail",
        "revision '0999', which .*; use the version that wrote it",
    ),
    Fault("older schema", old_database, "warn", "at revision 0001.*; .*`craft-server db upgrade`"),
    Fault("no upgrade", refuse_later, "fail", "migrate is off; run `craft-server db upgrade`"),
    Fault(
        "no tables",
        lambda w: (w.set(migrate="false"), w.give("--data-dir", w.folder / "other")),
        "fail",
        "the database is empty.*; run `craft-server db upgrade`",
    ),
    Fault(
        "no URL", lambda w: w.give("--database-url", "x"), "fail", "is no URL; it is like sqlite:"
    ),
    Fault(
        "no kind", lambda w: w.set(database_url="foo://h/x"), "fail", "'foo' is no kind of data.*;"
    ),
    Fault(
        "no driver",
        lambda w: (not_importable(w, "psycopg"), w.set(database_url="postgres://127.0.0.1/x")),
        "fail",
        r"needs the package 'psycopg'; .*pip install 'craft-blackbox\[server,postgres\]'",
    ),
    Fault(
        "no option",
        lambda w: w.set(database_url="postgres://127.0.0.1:1/x?foo=1"),
        "fail",
        "connection option.*; CRAFT_SERVER_DATABASE_URL is like",
    ),
    Fault(
        "no Postgres",
        lambda w: w.set(database_url="postgres://127.0.0.1:1/x"),
        "fail",
        "database postgresql.*//127.0.0.1:1/x does not answer: .*refused.*; start it",
    ),
    Fault(
        "no database",
        lambda w: w.give("--database-url", f"sqlite:///{w.file('x.db', b'text' * 999)}"),
        "fail",
        "x.db does not answer: file is not a database; start it, or name another",
    ),
    Fault("read-only", read_only, "fail", "craft.db is read-only: .*; give the server's account"),
    Fault(
        "made later",
        lambda w: run_script(w.url, "UPDATE keys SET created_at = 9000000000000000;\n"),
        "warn",
        "the newest key was made .* in the future.*; set the clock",
    ),
    Fault(
        "other server", other_server, "warn", "1 other server.*craft.db; stop what should not run"
    ),
    Fault(
        "no store", lambda w: w.set(image_url="ftp://h/x"), "fail", "image_url 'ftp://h/x' cannot"
    ),
    Fault(
        "no bucket", lambda w: w.set(image_url="s3://"), "fail", "image_url 's3://' cannot be .*; n"
    ),
    Fault(
        "no s3fs",
        lambda w: (not_importable(w, "s3fs"), w.set(image_url="s3://bucket/x")),
        "fail",
        "needs the package s3fs, which is not installed; .*pip install",
    ),
    Fault(
        "image folder",
        lambda w: w.set(image_url="file:///proc/x"),
        "fail",
        "images cannot be kept at file:///proc/x: .*; give the server's account",
    ),
    Fault(
        "forgetful", lambda w: w.set(image_url="memory://a/b"), "warn", "are gone .*; take a folder"
    ),
    Fault(
        "no otel", without_otel, "fail", r"needs the extra `otel`.*'craft-blackbox\[server,otel\]'"
    ),
    Fault(
        "collector",
        lambda w: w.set(otel_endpoint="http://127.0.0.1:1"),
        "warn",
        "the collector http://127.0.0.1:1 does not answer: Connection refused",
    ),
    Fault(
        "no collector", lambda w: w.set(otel_endpoint="collector"), "fail", "is no URL; it is like"
    ),
    Fault(
        "weights of none",
        lambda w: w.give("--pretrained", "x.pt", "--model", "embedded"),
        "fail",
        "--pretrained x.pt needs --model, the open_clip name .*takes no weights",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_a_planted_fault_is_found(craft_server, world, fault):
    fault.plant(world)
    said = troubles(screen(craft_server, world))
    assert [line for line in said if re.search(f"^{fault.state} .*{fault.words}", line)], said


def test_nothing_is_found_where_nothing_is_planted(craft_server, world):
    assert troubles(screen(craft_server, world)) == []


@pytest.mark.parametrize("order", limits.ORDERS, ids=lambda order: f"{order.lower}-{order.upper}")
def test_settings_that_contradict_each_other_are_named(craft_server, world, order):
    fields = limits.Settings.model_fields
    world.set(**{order.lower: int(fields[order.upper].default or 2) + 1})
    said = "\n".join(troubles(screen(craft_server, world)))
    assert re.search(
        rf"warn {order.lower} .* is more than {order.upper} .*: {order.otherwise}; "
        rf"lower CRAFT_SERVER_{order.lower.upper()} or raise CRAFT_SERVER_{order.upper.upper()}",
        said,
    )


def test_all_settings_that_are_out_of_range_are_named_and_the_rest_is_looked_at(
    craft_server, world
):
    world.set(queue=0, max_texts="x", metrics_port=taken(world))
    said = "\n".join(troubles(screen(craft_server, world)))
    assert {"queue:", "max_texts:", "give another metrics_port"} <= set(
        re.findall(r"queue:|max_texts:|give another metrics_port", said)
    )


def test_a_line_is_a_state_what_was_found_and_what_to_do(craft_server, world):
    port = taken(world)
    done = craft_server("check", *world.options, "--port", str(port))
    line = (
        f"fail  nothing can listen on 127.0.0.1:{port}: Address already in use; give another port"
    )
    assert line in done.out.splitlines()
    assert all(re.match(r"(ok  |warn|fail)  \S", each) for each in done.out.splitlines())
    assert (done.code, "1 fail, 0 warn" in done.err) == (1, True)


def test_a_database_that_runs_is_looked_at_with_what_is_not_yet_written_back(craft_server, world):
    with closing(Store(world.url)) as store:
        Keys(store).create("more", 1)
        found = [each["found"] for each in screen(craft_server, world)]
    assert "keys that are good: 2 of clients, 1 of administrators" in found


@pytest.mark.long
def test_a_postgres_that_takes_no_writes(craft_server, world):
    url = fresh_postgres()
    world.give("--database-url", url)
    assert "has no tables yet" in "".join(troubles(screen(craft_server, world)))
    with closing(Store(url)) as store:
        Keys(store).create("ann", 1)
    assert [line[:4] for line in troubles(screen(craft_server, world))] == ["warn"]  # no admin
    name = url.partition("?")[0].rpartition("/")[2]
    run_script(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on;\n")
    assert "is read-only: it is a standby" in "".join(troubles(screen(craft_server, world)))


def test_the_places_that_are_looked_at_for_wide_modes_are_those_that_servers_make(world):
    assert {each.name for each in world.data.iterdir()} <= set(places._PRIVATE)
