"""What the machine gives a server: open files, memory, a clock."""

import os
import resource
import time
import zoneinfo
from datetime import UTC, datetime
from pathlib import Path

import craft_server
from craft_server.checks.findings import Check
from craft_server.db.engines import CONNECTIONS
from craft_server.settings import Settings

_OTHER_FILES = 96
"""Files that are open beside connections: libraries, weights, the store of images, pipes."""
_DECODING = 16
"""Bytes of memory that each pixel of an image takes while it is decoded (decision 0016)."""
_GIB = 2**30
_DAY_S = 86_400


def check_machine(settings: Settings) -> Check:
    """Open files, memory and clock."""
    check = Check("machine")
    with check.refused("this machine hides what a server has to know of it: look there"):
        _check_files(check, settings)
        _check_memory(check, settings)
        _check_clock(check)
    return check


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or what its control group has."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(found, int(text)) if text.isdecimal() else found


def _check_files(check: Check, settings: Settings) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections + CONNECTIONS + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        check.ok(f"{wanted} open files are allowed")
        return
    check.fail(
        f"{soft} files may be open at a time, and {settings.connections} connections take {wanted}",
        f"start the server under `ulimit -n {wanted}`, or lower CRAFT_SERVER_CONNECTIONS",
    )


def _check_memory(check: Check, settings: Settings) -> None:
    decoders = settings.decode_workers or os.cpu_count() or 1
    parts = {
        "bodies_bytes": settings.bodies_bytes,
        "replies_bytes": settings.replies_bytes,
        f"{decoders} decode_workers x max_image_pixels": (
            decoders * settings.max_image_pixels * _DECODING
        ),
    }
    wanted, there = sum(parts.values()), memory_bytes()
    if wanted <= there:
        check.ok(f"requests take at most {wanted / _GIB:.1f} of {there / _GIB:.1f} GiB of memory")
        return
    most = max(parts, key=lambda name: parts[name])
    check.warn(
        f"requests may take {wanted / _GIB:.1f} GiB of memory beside the model, and there are "
        f"{there / _GIB:.1f}",
        f"lower {most}, which alone allows {parts[most] / _GIB:.1f} GiB",
    )


def _check_clock(check: Check) -> None:
    now, installed = time.time(), Path(craft_server.__file__).stat().st_mtime
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if now < installed - _DAY_S:
        check.fail(
            f"the clock says {shown}, which is before this server was installed",
            "set the clock, as by NTP: keys expire by it",
        )
    else:
        check.ok(f"the clock says {shown}; times are told in UTC")
    zone = os.environ.get("TZ", "").removeprefix(":")
    if "/" in zone and not zone.startswith("/") and zone not in zoneinfo.available_timezones():
        check.warn(
            f"TZ={zone} is no time zone",
            "the server tells all times in UTC, but other programs here may take any; correct it",
        )
