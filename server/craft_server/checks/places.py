"""Where a server listens, keeps its files and sends its traces."""

import shutil
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from craft_server import private_files
from craft_server.api.listening import AddressError, listening
from craft_server.app import make_tracer
from craft_server.checks.findings import Check
from craft_server.images.blobs import BlobsDown, folder_of, place_for
from craft_server.settings import Settings

_LITTLE, _NOTHING = 2**30, 2**26
"""Bytes free on a disk: so few are worth a word; with fewer, nothing can be kept."""
_CONNECT_S = 3.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_PRIVATE = ("craft.db", "craft.db-wal", "craft.db-shm", "features.db", "images")


def check_addresses(settings: Settings) -> Check:
    """Ports and hosts: both are had at the same time, and let go again."""
    check = Check("addresses")
    wanted = [(settings.host, settings.port, "port")]
    if settings.metrics_port is not None:
        wanted.append((settings.metrics_host, settings.metrics_port, "metrics_port"))
    with ExitStack() as held:
        for host, port, setting in wanted:
            try:
                for each in listening(host, port, setting=setting):
                    held.enter_context(each)
            except AddressError as error:
                found, _, advice = str(error).partition("; ")
                check.fail(found, advice or _other_place(host, setting))
            else:
                what = "the server" if setting == "port" else "metrics and probes"
                check.ok(f"{what} can listen on {host}:{port}")
    if settings.metrics_port is not None and settings.metrics_host not in _LOOPBACK:
        check.warn(
            f"metrics and probes answer other machines on {settings.metrics_host} without a key",
            "keep the port where clients cannot reach it",
        )
    return check


def _other_place(host: str, setting: str) -> str:
    name = setting.replace("port", "host").upper()
    return (
        f"CRAFT_SERVER_{name} is an address or a name of this machine, as 127.0.0.1 or 0.0.0.0, "
        f"and ports below 1024 may be for the administrator; got {host!r}"
    )


def check_folder(settings: Settings) -> Check:
    """The data folder: that it can be written to, has room, and is for this account alone."""
    check, folder = Check("data_dir"), settings.data_dir.absolute()
    do = "give a folder of this account with --data-dir"
    with check.refused(do):
        if (trouble := _unwritable(folder)) is not None:
            check.fail(f"nothing can be written to the data folder {folder}: {trouble}", do)
            return check
        there = _nearest(folder)
        check.ok(f"the data folder is {folder}" + ("" if there == folder else ", to be made"))
        _check_room(check, there)
        _check_private(check, folder)
    return check


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder, or in the one in which it would be made."""
    there = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{there}: {error.strerror}"


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _check_room(check: Check, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB are free on the disk of {folder}"
    if free < _NOTHING:
        check.fail(found, "make room: nothing is sold while the ledger cannot be written")
    elif free < _LITTLE:
        check.warn(found, "make room: images, their encodings and the ledger grow")
    else:
        check.ok(found)


def _check_private(check: Check, folder: Path) -> None:
    paths = [each for each in (folder, *(folder / name for name in _PRIVATE)) if each.exists()]
    if is_open := [each for each in paths if private_files.is_open(each)]:
        first = is_open[0]
        check.warn(
            f"other accounts may read or write {first} (mode {first.stat().st_mode & 0o777:o})"
            + (f" and {len(is_open) - 1} more" if len(is_open) > 1 else ""),
            f"chmod {'700' if first.is_dir() else '600'} {first}",
        )


def check_images(settings: Settings) -> Check:
    """Where the bytes of images are kept, if it is not in the data folder."""
    check, place = Check("image_url"), settings.image_url
    if place is None:
        return check
    with check.refused("see CRAFT_SERVER_IMAGE_URL in docs/reference/settings.md"):
        folder = folder_of(place)
        trouble = _unreadable(place) if folder is None else _unwritable(folder.absolute())
        if trouble is not None:
            check.fail(
                f"images cannot be kept at {place}: {trouble}",
                "give the server's account the right to write there, and the store's client its "
                "address and credentials",
            )
        elif place.startswith("memory:"):
            check.warn(f"images at {place} are gone when the server ends", "take a folder")
        else:
            check.ok(f"images are kept at {place}")
    return check


def _unreadable(url: str) -> str | None:
    """Why a bucket does not say that it has no image of a name that none has."""
    blobs = place_for(url)
    try:
        blobs.read("0" * 64)
    except FileNotFoundError:
        return None
    except BlobsDown as error:
        return " ".join(f"{error.detail} ({error.__cause__})".split())
    finally:
        blobs.close()
    return None


def check_traces(settings: Settings) -> Check:
    """The collector of traces, if there is one."""
    check, endpoint = Check("otel_endpoint"), settings.otel_endpoint
    if endpoint is None:
        return check
    with check.refused("pip install 'craft-blackbox[server,otel]'"):
        make_tracer(settings).close()
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            check.fail(f"otel_endpoint {endpoint!r} is no URL", "it is like http://127.0.0.1:4318")
        elif (why := _unreachable(parts.hostname, port)) is not None:
            check.warn(f"the collector {endpoint} does not answer: {why}", "no trace is kept")
        else:
            check.ok(f"the collector {endpoint} answers")
    return check


def _unreachable(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
